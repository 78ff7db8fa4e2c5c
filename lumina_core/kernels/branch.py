"""Keeping the cache entries of an accepted branch of the draft tree, in a Triton kernel."""

import triton
import triton.language as tl

from ..errors import InputError
from .kv_tensor import KVTensor
from .window_state import WindowState

MAX_BLOCK = 1024


@triton.jit(do_not_specialize=["rows", "pictures", "length"])
def _keep_branch(
    stored, branch, offset, rows, pictures, length, SIZE: tl.constexpr, BLOCK: tl.constexpr, NODES: tl.constexpr
):
    """One node of one row of one layer."""
    row, node = tl.program_id(0).to(tl.int64), tl.program_id(1)
    in_layer = row % rows
    of_picture = branch + in_layer % pictures * 3
    if node >= tl.load(of_picture + 2):
        return
    source = row * length + length - NODES + tl.load(of_picture) + node
    target = row * length + tl.load(of_picture + 1) + tl.load(offset + in_layer) + node
    for start in range(0, SIZE, BLOCK):
        value = start + tl.arange(0, BLOCK)
        inside = value < SIZE
        tl.store(stored + target * SIZE + value, tl.load(stored + source * SIZE + value, mask=inside), mask=inside)


def keep_branch(state: WindowState, keys: KVTensor, values: KVTensor, warps: int = 4) -> tuple[KVTensor, KVTensor]:
    """Copies keys and values of the accepted nodes to the slots of their positions. See the reference.

    A program of `warps` has one node of one row of a layer. Raises InputError unless both are contiguous.
    """
    rows, pictures = len(state.offset), len(state.pos)
    for tensor in (*keys.tensors, *values.tensors):
        if not tensor.is_contiguous():
            raise InputError(f"a cache with strides {tensor.stride()}; expected a contiguous one")
        (all_rows, length), size = tensor.shape[:2], tensor.shape[2:].numel()
        block = min(MAX_BLOCK, triton.next_power_of_2(size))
        _keep_branch[all_rows, state.tree.longest](
            *(tensor, state.branch, state.offset, rows, pictures, length),
            SIZE=size,
            BLOCK=block,
            NODES=len(state.tree),
            num_warps=warps,
        )
    return keys, values
