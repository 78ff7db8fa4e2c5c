"""A window's forward with the operations between matmuls and attention fused: ten kernels a block instead of some 50.

With few tokens on a large GPU a step mostly waits for launches. Results are those of the blocks operation by operation,
but for the order of sums.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ..kernels.buffers import Buffers
from .kv_cache import WindowPlan
from .layers import Block
from .run_kernels import BlockKernels


def fused_states(
    blocks: Sequence[Block],
    norm: nn.Module,
    x: Tensor,
    normed: Tensor,
    plan: WindowPlan,
    kernels: BlockKernels,
    buffers: Buffers | None = None,
) -> Tensor:
    """Normed states [R·S,hidden_size] after the last block, for blocks with norms before attention and MLP.

    x [R·S,hidden_size] are the embeddings, `normed` those after the first block's norm.
    """
    tables, next_norms = (plan.cache.cos, plan.cache.sin), [*(block.input_layernorm for block in blocks[1:]), norm]
    for index, (block, next_norm) in enumerate(zip(blocks, next_norms, strict=True)):
        attention, mlp, cached = block.self_attn, block.mlp, plan.cache.layers[index]
        norms = attention.q_norm.weight_and_bias(x), attention.k_norm.weight_and_bias(x)
        sums = partial_sums(attention.qkv_proj, normed, buffers)
        stored = cached.keys, cached.values
        where = plan.input_pos, *stored, plan.nodes
        query, *_ = kernels.qkv_norm_rope_store(sums, *norms, *tables, *where, buffers=buffers)
        mixed = plan.attend_cached(index, query.unflatten(0, plan.input_pos.shape), buffers).flatten(2).flatten(0, 1)
        sums = partial_sums(attention.o_proj, mixed, buffers)
        x, normed = _add_norm(kernels, x, sums, block.post_attention_layernorm, buffers)
        gated = kernels.silu_gate(partial_sums(mlp.gate_up_proj, normed, buffers), x.dtype, buffers=buffers)
        x, normed = _add_norm(kernels, x, partial_sums(mlp.down_proj, gated, buffers), next_norm, buffers)
    return normed


def _add_norm(
    kernels: BlockKernels, x: Tensor, sums: Tensor, norm: Any, buffers: Buffers | None
) -> tuple[Tensor, Tensor]:
    return kernels.add_rms_norm(x, sums, norm.weight.to(x), norm.eps, buffers=buffers)


def partial_sums(layer: nn.Module, x: Tensor, buffers: Buffers | None = None) -> Tensor:
    """The matmul of rows [n,in] as [splits,n,out], in as many splits as the layer computes it."""
    own: Callable[..., Tensor] | None = getattr(layer, "partial_sums", None)
    return layer(x)[None] if own is None else own(x, buffers)
