"""All but the k largest of many logits cut off, without sorting them, in a Triton kernel.

Floats are read as integers of the same order, and the largest integer that at least k of them reach is found bit by
bit, from the highest down: 32 counts over numbers that stay in registers.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..errors import InputError

MOST_LOGITS = 2**16


@triton.jit
def kth_largest(values, inside, top_k):
    """The k-th largest of the float32 values that are inside, one row's."""
    bits = values.to(tl.uint32, bitcast=True)
    sign, ones = tl.full([], 1 << 31, tl.uint32), tl.full([], 2**32 - 1, tl.uint32)
    # The order of floats: negative ones are turned round, positive ones put above them.
    ranks = tl.where(bits >= sign, bits ^ ones, bits | sign)
    found = tl.full([], 0, tl.uint32)
    for step in range(32):
        candidate = found | (sign >> step)
        reached = tl.sum(((ranks >= candidate) & inside).to(tl.int32), 0)
        found = tl.where(reached >= top_k, candidate, found)
    return tl.where(found >= sign, found ^ sign, found ^ ones).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["top_k"])
def _cut_row(logits, out, count, top_k, BLOCK: tl.constexpr):
    """One row, with all that is less than its k-th largest at −inf."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    inside = place < count
    values = tl.load(logits + row * count + place, mask=inside, other=0.0)
    kth = kth_largest(values, inside, top_k)
    tl.store(out + row * count + place, tl.where(values < kth, -float("inf"), values), mask=inside)


def warps_for(block: int) -> int:
    """Warps that hold a row of so many numbers in registers."""
    return max(1, min(16, block // 512))


def topk_cut(logits: Tensor, top_k: int, warps: int | None = None) -> Tensor:
    """Logits [...,K] with all that are less than the k-th largest at −inf; ties with the k-th stay, as in the twin.

    A program, of so many `warps` (None: by K), has one row. In float32, none of them NaN; k is 1 to K ≤ 65,536. Raises
    InputError for others.
    """
    count = logits.shape[-1]
    if logits.dtype != torch.float32 or not 1 <= top_k <= count <= MOST_LOGITS:
        raise InputError(
            f"the {top_k}-th largest of {count} logits in {logits.dtype}; expected 1 to {count} of at most "
            f"{MOST_LOGITS} in torch.float32: use the eager twin for others"
        )
    out = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    block = triton.next_power_of_2(count)
    warps = warps_for(block) if warps is None else warps
    _cut_row[(logits.numel() // count,)](logits.contiguous(), out, count, top_k, BLOCK=block, num_warps=warps)
    return out
