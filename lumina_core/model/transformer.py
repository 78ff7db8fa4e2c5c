"""The decoder-only transformer."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import operations
from ..checkpoint.config import TransformerConfig
from ..kernels.buffers import Buffers
from ..kernels.chunked_attention import attention_rounds_alike
from ..kernels.kv_tensor import AUTO
from ..kernels.linear import linear, linear_kernel, multiply, state_dtype
from ..kernels.window_state import Sampling
from ..lora.applied import AppliedLora
from ..quant.linear import MatmulBackend, QuantizedLinear
from ..quant.select import choose_again
from .fused import fused_states, partial_sums
from .kv_cache import AttentionPlan, CausalPlan, KVCache, WindowPlan
from .layers import BLOCK_LINEARS, Block
from .rope import rope_table
from .run_kernels import REFERENCE_KERNELS, RunKernels, choose_run_kernels


class Transformer(nn.Module):
    """Embedding, blocks, norm and head.

    The vocabulary is split by use. The rows of image codes are layers on the device, `code_embedding` and `code_head`.
    The whole tables, which only prompts and `forward` need, stay in host memory (memory-mapped from the file) as plain
    tensors `text_embedding` and `text_head` [vocab_size,hidden_size] that no `.to()` moves.

    `block_operations` is a namespace of the blocks' layer classes, for weights that are quantised or streamed in.
    `compile_choice` is one of COMPILE (see compile.py). `streamed`: a memory manager keeps some weights in host memory
    and brings each to the device when it is used. `loras` are those of which it has the branches (see wear.py).
    """

    text_embedding: Tensor
    text_head: Tensor
    compile_choice = "auto"
    streamed = False
    loras: tuple[AppliedLora, ...] = ()

    def __init__(self, config: TransformerConfig, block_operations: Any = operations):
        super().__init__()
        self.config = config
        codes = len(self.code_range)
        self.code_embedding = operations.Embedding(codes, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, block_operations) for _ in range(config.num_hidden_layers))
        self.norm = operations.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.code_head = operations.Linear(config.hidden_size, codes, bias=False)

    @property
    def blocks(self) -> list[Block]:
        return [layer for layer in self.layers if isinstance(layer, Block)]

    @property
    def code_range(self) -> range:
        """The ids of image codes; empty for a text-only model."""
        return self.config.code_range

    @property
    def dtype(self) -> torch.dtype:
        return self.norm.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.norm.weight.device

    @property
    def matmul_kernel(self) -> str:
        """The kernels that multiply by the blocks' weights, for reports."""
        linears = (linear for block in self.blocks for linear in block.linears)
        names = (getattr(linear, "backend_name", None) or linear_kernel(linear.weight) for linear in linears)
        return "; ".join(dict.fromkeys(names))

    @property
    def backends(self) -> set[MatmulBackend | None]:
        """What multiplies by the blocks' weights; None is PyTorch."""
        return {getattr(linear, "backend", None) for block in self.blocks for linear in block.linears}

    @property
    def multiplications(self) -> int:
        """Multiplications by weights for a token."""
        linears = [self.code_head, *(linear for block in self.blocks for linear in block.linears)]
        return sum(linear.in_features * linear.out_features for linear in linears)

    @property
    def rounds_alike(self) -> bool:
        """Whether the blocks give a row the same result in any number of rows, bit for bit."""
        linears = (linear for block in self.blocks for linear in block.linears)
        by_matmuls = all(isinstance(linear, QuantizedLinear) and linear.rounds_alike for linear in linears)
        if self.loras and self.device.type != "cpu":  # the matmuls of a branch are PyTorch's
            return False
        return by_matmuls and (self.device.type != "cpu" or attention_rounds_alike(self.config.head_dim))

    @property
    def scratch_bytes(self) -> int:
        """Bytes that the largest matmul takes beside its input and output, about; 0 unless weights are quantised."""
        return max(getattr(module, "scratch_bytes", 0) for module in self.layers.modules())

    def choose_kernels(self, sampling: Sampling, kv_cache: str, width: int, length: int) -> RunKernels:
        """The kernels of a run with windows of at most `width` tokens over a cache of `length` slots.

        Those of the blocks' matmuls, which were chosen when the model was loaded, are chosen again where there was no
        memory for their self-test.
        """
        quantized = (linear for block in self.blocks for linear in block.linears if isinstance(linear, QuantizedLinear))
        choose_again(quantized, self.dtype, self.device)
        by_layer = zip(*(block.linears for block in self.blocks), strict=True)
        counts = (tuple(sorted({getattr(linear, "splits", 1) for linear in linears})) for linears in by_layer)
        splits = dict(zip(BLOCK_LINEARS, counts, strict=True))
        run = sampling, kv_cache, width, length
        kernels = choose_run_kernels(self.config, self.dtype, self.device, splits, *run)
        # A backend that splits nothing allocates what it returns.
        allocates = any(backend is not None and backend.split is None for backend in self.backends)
        return replace(kernels, allocates=kernels.allocates or allocates)

    def make_cache(
        self, rows: int, length: int, kv_cache: str = AUTO, kernels: RunKernels = REFERENCE_KERNELS
    ) -> KVCache:
        """An empty cache on the transformer's device."""
        dtype, device = self.dtype, self.device
        return KVCache(self.config, rows, length, dtype=dtype, device=device, kv_cache=kv_cache, kernels=kernels)

    def forward(self, input_ids: Tensor, cache: KVCache | None = None, input_pos: Tensor | None = None) -> Tensor:
        """Logits [B,S,vocab_size] of every next token after input_ids [B,S].

        With a cache, the tokens are at positions `input_pos` [B,S]. For checks and for text; drawing uses
        `hidden_states` and `code_logits`.
        """
        hidden = self.hidden_states(self.embed(input_ids), self.plan(input_ids, cache, input_pos))
        head = self.text_head.to(device=self.device, dtype=self.dtype)
        return multiply(lambda rows: linear(rows, head), hidden, self.dtype)

    def embed(self, input_ids: Tensor) -> Tensor:
        """Embeddings [...,hidden_size] of any ids, looked up in host memory."""
        rows = F.embedding(input_ids.to(self.text_embedding.device), self.text_embedding)
        return rows.to(device=self.device, dtype=self.dtype)

    def plan(self, tokens: Tensor, cache: KVCache | None = None, input_pos: Tensor | None = None) -> AttentionPlan:
        """The attention of tokens [B,S,...]: over a cache at `input_pos`, or causal among themselves."""
        if cache is not None:
            assert input_pos is not None, "a cache needs the tokens' positions"
            return cache.plan(input_pos.to(self.device), int(input_pos.max()) + 1)
        table = rope_table(
            tokens.shape[1], self.config.head_dim, self.config.rope_theta, dtype=self.dtype, device=self.device
        )
        cos, sin = (part[None, :, None] for part in table)
        return CausalPlan(cos, sin)

    def hidden_states(
        self, embeddings: Tensor, plan: AttentionPlan, before_block: Callable[[], object] | None = None
    ) -> Tensor:
        """Normed states [B,S,hidden_size] after the last block, in `state_dtype`.

        `before_block` is called before each block of a prefill; an exception that it raises ends the forward.
        """
        if isinstance(plan, WindowPlan) and plan.cache.kernels.blocks is not None:
            x = embeddings.flatten(0, 1)
            states = self.fused_states(x, self.blocks[0].input_layernorm(x), plan)
            return states.unflatten(0, embeddings.shape[:2])
        x = embeddings.to(state_dtype(self.dtype))
        for index, layer in enumerate(self.layers):
            if before_block is not None:
                before_block()
            x = layer(x, index, plan)
        return self.norm(x)

    def fused_states(self, x: Tensor, normed: Tensor, plan: WindowPlan, buffers: Buffers | None = None) -> Tensor:
        """Normed states [B·S,hidden_size] of embeddings x [B·S,hidden_size] and their first norm, by fused blocks."""
        kernels = plan.cache.kernels.blocks
        assert kernels is not None, "the run has no kernels for the blocks"
        return fused_states(self.blocks, self.norm, x, normed, plan, kernels, buffers)

    def code_logits(self, hidden: Tensor, buffers: Buffers | None = None) -> Tensor:
        """Logits [n,codebook_size] over image codes only, of states [n,hidden_size], in `state_dtype`."""
        return multiply(lambda rows: partial_sums(self.code_head, rows, buffers)[0], hidden, self.dtype)
