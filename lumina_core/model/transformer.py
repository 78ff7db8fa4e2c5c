"""The decoder-only transformer that draws pictures as tokens."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import operations as default_operations
from ..checkpoint.config import TransformerConfig
from ..kernels.linear import linear, linear_kernel
from .fused import fused_states
from .kv_cache import AttentionPlan, KVCache
from .layers import Block
from .rope import rope_table


class Transformer(nn.Module):
    """Embedding, blocks, norm and head.

    The vocabulary is split by use. The rows of image codes are layers on the device: `code_embedding` and `code_head`.
    The whole tables, which only prompts and `forward` need, stay in host memory (memory-mapped from the file) as plain
    tensors `text_embedding` and `text_head` [vocab_size, hidden_size] that no `.to()` moves.

    `operations` is a namespace of layer classes; the blocks' own may be another, for quantised weights.
    `compile_choice` says how drawing carries out its steps, `compiled` whether the blocks are (see compile.py).
    """

    text_embedding: Tensor
    text_head: Tensor
    compile_choice = "auto"
    compiled = False

    def __init__(self, config: TransformerConfig, operations: Any = default_operations, block_operations: Any = None):
        super().__init__()
        block_operations = operations if block_operations is None else block_operations
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
        """The ids of image codes; empty for a model of text alone, whose vocabulary does not hold them."""
        first, end = self.config.image_token_offset, self.config.image_token_offset + self.config.codebook_size
        return range(first, end) if end <= self.config.vocab_size else range(0)

    @property
    def dtype(self) -> torch.dtype:
        return self.norm.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.norm.weight.device

    @property
    def matmul_kernel(self) -> str:
        """What multiplies the blocks' weights, for reports; several, if they differ by layer."""
        linears = (linear for block in self.blocks for linear in block.linears)
        plain = (lambda weight: "torch.compile") if self.compiled else linear_kernel
        names = (getattr(linear, "kernel_name", None) or plain(linear.weight) for linear in linears)
        return "; ".join(dict.fromkeys(names))

    @property
    def scratch_bytes(self) -> int:
        """About what its widest product takes beside input and output: 0, but for quantised weights."""
        return max(getattr(module, "scratch_bytes", 0) for module in self.layers.modules())

    def forward(self, input_ids: Tensor, cache: KVCache | None = None, input_pos: Tensor | None = None) -> Tensor:
        """Logits [B,S,vocab_size] of every next token after input_ids [B,S].

        With a cache, the tokens stand at `input_pos` [B,S] behind what it holds. For checks and for text: drawing uses
        `hidden_states` and `code_logits`.
        """
        hidden = self.hidden_states(self.embed(input_ids), self.plan(input_ids, cache, input_pos))
        return linear(hidden, self.text_head.to(hidden))

    def embed(self, input_ids: Tensor) -> Tensor:
        """Embeddings [...,hidden_size] of any ids of the vocabulary, looked up in host memory."""
        rows = F.embedding(input_ids.to(self.text_embedding.device), self.text_embedding)
        return rows.to(device=self.device, dtype=self.dtype)

    def plan(self, tokens: Tensor, cache: KVCache | None = None, input_pos: Tensor | None = None) -> AttentionPlan:
        """The attention plan for tokens [B,S,...]: behind a cache's content, or causal among themselves."""
        if cache is not None:
            assert input_pos is not None, "a cache needs the tokens' positions"
            return cache.plan(input_pos.to(self.device), int(input_pos.max()) + 1)
        table = rope_table(
            tokens.shape[1], self.config.head_dim, self.config.rope_theta, dtype=self.dtype, device=self.device
        )
        cos, sin = (part[None, :, None] for part in table)
        return AttentionPlan(cos=cos, sin=sin)

    def hidden_states(self, embeddings: Tensor, plan: AttentionPlan) -> Tensor:
        """Normed states [B,S,hidden_size] behind the last block."""
        kernels = None if plan.cache is None or plan.window_pos is None else plan.cache.block_kernels
        if kernels is not None and not self.compiled:
            return fused_states(self.blocks, self.norm, embeddings, plan, kernels)
        x = embeddings
        for index, layer in enumerate(self.layers):
            x = layer(x, index, plan)
        return self.norm(x)

    def code_logits(self, hidden: Tensor) -> Tensor:
        """Logits [...,codebook_size] over image codes only."""
        return self.code_head(hidden)
