"""A window's forward with what lies between a block's products and its attention in a kernel each.

Ten kernels a block instead of some fifty, for which a step of few tokens on a large GPU would mostly wait. The
numbers are those of the blocks one operation at a time, but for the order of sums.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from .kv_cache import AttentionPlan, BlockKernels
from .layers import Block


def fused_states(
    blocks: Sequence[Block], norm: nn.Module, embeddings: Tensor, plan: AttentionPlan, kernels: BlockKernels
) -> Tensor:
    """Normed states [R,S,hidden_size] behind the last block, the norms being before attention and MLP (no `swin_norm`).

    The plan is that of a cache that attends by itself.
    """
    cache, slots, window_pos = plan.cache, plan.slots, plan.window_pos
    assert cache is not None and slots is not None and window_pos is not None
    cos, sin = plan.cos.flatten(0, 2), plan.sin.flatten(0, 2)
    x = embeddings.flatten(0, 1)
    normed = blocks[0].input_layernorm(x)
    following_norms = [*(block.input_layernorm for block in blocks[1:]), norm]
    for index, (block, following) in enumerate(zip(blocks, following_norms, strict=True)):
        attention, mlp, stored = block.self_attn, block.mlp, cache.stored(index)
        norms = attention.q_norm.weight_and_bias(x), attention.k_norm.weight_and_bias(x)
        query, *_ = kernels.place_heads(partial_sums(attention.qkv_proj, normed), *norms, cos, sin, slots, *stored)
        mixed = cache.attend_stored(query.unflatten(0, window_pos.shape), stored, plan).flatten(2).flatten(0, 1)
        x, normed = _add_norm(kernels, x, partial_sums(attention.o_proj, mixed), block.post_attention_layernorm)
        gated = kernels.silu_gate(partial_sums(mlp.gate_up_proj, normed), x.dtype)
        x, normed = _add_norm(kernels, x, partial_sums(mlp.down_proj, gated), following)
    return normed.unflatten(0, window_pos.shape)


def _add_norm(kernels: BlockKernels, x: Tensor, sums: Tensor, norm: Any) -> tuple[Tensor, Tensor]:
    return kernels.add_norm(x, sums, norm.weight.to(x), norm.eps)


def partial_sums(layer: nn.Module, x: Tensor) -> Tensor:
    """The product of rows [n,in] as [splits,n,out], as a layer works it out; in one where it does not say."""
    own: Callable[[Tensor], Tensor] | None = getattr(layer, "partial_sums", None)
    return layer(x)[None] if own is None else own(x)
