"""The k-th largest of many floats without sorting, for Triton kernels.

Floats are mapped to integers of the same order; the largest integer that at least k of them reach is found bit by bit
from the highest: 32 counts over values that stay in registers.
"""

import triton
import triton.language as tl


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
