"""Layers of the Chameleon transformer. `operations` is a namespace of layer classes: `torch.nn`, or ComfyUI's."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoint.config import TransformerConfig
from ..kernels import reference
from ..kernels.linear import multiply
from ..lora.linear import base_of
from .kv_cache import AttentionPlan

BLOCK_LINEARS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")


class HeadNorm(nn.Module):
    """LayerNorm over the head dimension; weight and bias [parts,head_dim] serve heads/parts neighbouring heads each."""

    def __init__(self, parts: int, head_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(parts, head_dim))
        self.bias = nn.Parameter(torch.zeros(parts, head_dim))

    def forward(self, x: Tensor) -> Tensor:
        return reference.head_norm(x, *self.weight_and_bias(x))

    def weight_and_bias(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both on the device and in the dtype of x."""
        return self.weight.to(x), self.bias.to(x)


class Attention(nn.Module):
    """Causal self-attention with q/k norm, RoPE and grouped key/value heads."""

    def __init__(self, config: TransformerConfig, operations: Any):
        super().__init__()
        heads, kv_heads, head_dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.heads = (heads, kv_heads, kv_heads)
        self.head_dim = head_dim
        self.qkv_proj = operations.Linear(config.hidden_size, sum(self.heads) * head_dim, bias=False)
        self.o_proj = operations.Linear(heads * head_dim, config.hidden_size, bias=False)
        self.q_norm = HeadNorm(config.model_parallel_size, head_dim)
        self.k_norm = HeadNorm(config.model_parallel_size, head_dim)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [R,S,heads,head_dim], keys and values [R,S,kv_heads,head_dim] of tokens at positions cos, sin.

        All in the dtype of cos and sin, which is that of the computation.
        """
        qkv = multiply(self.qkv_proj, x, cos.dtype).unflatten(-1, (-1, self.head_dim))
        query, key, value = qkv.split(self.heads, dim=2)
        query = reference.apply_rope(self.q_norm(query), cos, sin)
        key = reference.apply_rope(self.k_norm(key), cos, sin)
        return query.to(cos.dtype), key.to(cos.dtype), value.to(cos.dtype)


class MLP(nn.Module):
    """down(silu(gate(x)) · up(x)), gate and up in one matmul."""

    def __init__(self, config: TransformerConfig, operations: Any):
        super().__init__()
        self.gate_up_proj = operations.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = operations.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Of x [...,hidden_size], with matmuls in `dtype`."""
        gate, up = multiply(self.gate_up_proj, x, dtype).chunk(2, dim=-1)
        return multiply(self.down_proj, F.silu(gate) * up, dtype)


class Block(nn.Module):
    """Attention and MLP, each with a residual connection; norms before them, or after them with `swin_norm`.

    The attention between `qkv` and `finish` writes and reads the cache.
    """

    def __init__(self, config: TransformerConfig, operations: Any):
        super().__init__()
        self.swin_norm = config.swin_norm
        self.self_attn = Attention(config, operations)
        self.mlp = MLP(config, operations)
        self.input_layernorm = operations.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = operations.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    @property
    def linears(self) -> tuple[Any, ...]:
        """The linear layers, in the order of BLOCK_LINEARS, without what LoRAs add."""
        attention, mlp = self.self_attn, self.mlp
        return tuple(map(base_of, (attention.qkv_proj, attention.o_proj, mlp.gate_up_proj, mlp.down_proj)))

    def forward(self, x: Tensor, layer: int, plan: AttentionPlan) -> Tensor:
        query, key, value = self.qkv(x, plan.cos, plan.sin)
        return self.finish(x, plan.attend(layer, query, key, value).flatten(2))

    def qkv(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of x [R,S,hidden_size]."""
        return self.self_attn.project(x if self.swin_norm else self.input_layernorm(x), cos, sin)

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """The block's output [R,S,hidden_size] from its input and the attention's [R,S,heads·head_dim]."""
        attended = multiply(self.self_attn.o_proj, mixed, mixed.dtype)
        if self.swin_norm:
            x = x + self.input_layernorm(attended)
            return x + self.post_attention_layernorm(self.mlp(x, mixed.dtype))
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x), mixed.dtype)
