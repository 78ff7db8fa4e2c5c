"""Top-k of logits without sorting, in a Triton kernel.

Floats are mapped to integers of the same order; the largest integer that at least k of them reach is found bit by bit
from the highest: 32 counts over values that stay in registers.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..errors import InputError

MAX_LOGITS = 2**16


@triton.jit
def kth_largest(values, inside, top_k):
    """The k-th largest of one row's float32 values that are `inside`."""
    bits = values.to(tl.uint32, bitcast=True)
    sign, ones = tl.full([], 1 << 31, tl.uint32), tl.full([], 2**32 - 1, tl.uint32)
    # In the order of floats: negative ones are reversed, positive ones follow them.
    ranks = tl.where(bits >= sign, bits ^ ones, bits | sign)
    found = tl.full([], 0, tl.uint32)
    for step in range(32):
        candidate = found | (sign >> step)
        reached = tl.sum(((ranks >= candidate) & inside).to(tl.int32), 0)
        found = tl.where(reached >= top_k, candidate, found)
    return tl.where(found >= sign, found ^ sign, found ^ ones).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["top_k"])
def _cut_row(logits, out, count, top_k, BLOCK: tl.constexpr):
    """One row."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    inside = place < count
    values = tl.load(logits + row * count + place, mask=inside, other=0.0)
    kth = kth_largest(values, inside, top_k)
    tl.store(out + row * count + place, tl.where(values < kth, -float("inf"), values), mask=inside)


def warps_for(block: int) -> int:
    """Warps that hold a row of `block` values in registers."""
    return max(1, min(16, block // 512))


def topk_cut(logits: Tensor, top_k: int, warps: int | None = None) -> Tensor:
    """Logits [...,K] with all that are less than the k-th largest at −inf. See the reference.

    A program of `warps` (None: by K) has one row. No logit is NaN. Raises InputError unless the dtype is float32 and k
    is 1 to K ≤ 65,536.
    """
    count = logits.shape[-1]
    if logits.dtype != torch.float32 or not 1 <= top_k <= count <= MAX_LOGITS:
        raise InputError(
            f"the {top_k}-th largest of {count} logits in {logits.dtype}; expected 1 to {count} of at most "
            f"{MAX_LOGITS} in torch.float32: use the reference for others"
        )
    out = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    block = triton.next_power_of_2(count)
    warps = warps_for(block) if warps is None else warps
    _cut_row[(logits.numel() // count,)](logits.contiguous(), out, count, top_k, BLOCK=block, num_warps=warps)
    return out
