"""The k-th largest of many floats, and the last of the likeliest, without sorting, for Triton kernels.

Floats are mapped to integers of the same order; the largest integer that at least k of them reach is found bit by bit
from the highest: 32 counts over values that stay in registers. For top-p, weights are added instead.
"""

import triton
import triton.language as tl

from .reference import SHARE_BITS, SHARE_MASK, WEIGHT_BITS

_OF_LARGEST = tl.constexpr(2.0**WEIGHT_BITS)
_SHARE_BITS, _SHARE_MASK = tl.constexpr(SHARE_BITS), tl.constexpr(SHARE_MASK)


@triton.jit
def _ranks_of(values, sign, ones):
    """Integers in the order of floats: negative ones are reversed, positive ones follow them."""
    bits = values.to(tl.uint32, bitcast=True)
    return tl.where(bits >= sign, bits ^ ones, bits | sign)


@triton.jit
def _value_of(rank, sign, ones):
    return tl.where(rank >= sign, rank ^ sign, rank ^ ones).to(tl.float32, bitcast=True)


@triton.jit
def kth_largest(values, inside, top_k):
    """The k-th largest of one row's float32 values that are `inside`."""
    sign, ones = tl.full([], 1 << 31, tl.uint32), tl.full([], 2**32 - 1, tl.uint32)
    ranks = _ranks_of(values, sign, ones)
    found = tl.full([], 0, tl.uint32)
    for step in range(32):
        candidate = found | (sign >> step)
        reached = tl.sum(((ranks >= candidate) & inside).to(tl.int32), 0)
        found = tl.where(reached >= top_k, candidate, found)
    return _value_of(found, sign, ones)


@triton.jit
def last_of_share(values, largest, share):
    """The least of one row's likeliest values whose probability reaches `share` of the whole; see `top_p_cut`."""
    sign, ones = tl.full([], 1 << 31, tl.uint32), tl.full([], 2**32 - 1, tl.uint32)
    ranks, weights = _ranks_of(values, sign, ones), (tl.exp(values - largest) * _OF_LARGEST).to(tl.int64)
    total = tl.sum(weights, 0)
    least = (total >> _SHARE_BITS) * share + (((total & _SHARE_MASK) * share + _SHARE_MASK) >> _SHARE_BITS)
    found = tl.full([], 0, tl.uint32)
    for step in range(32):
        candidate = found | (sign >> step)
        reached = tl.sum(tl.where(ranks >= candidate, weights, 0), 0)
        found = tl.where(reached >= least, candidate, found)
    return _value_of(found, sign, ones)
