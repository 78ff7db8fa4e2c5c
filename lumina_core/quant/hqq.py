"""The zero of int4 groups by half-quadratic splitting (HQQ): Badri and Shaji, "Half-Quadratic Quantization of Large
Machine Learning Models", 2023.

HQQ minimises the p-norm of the errors of a group over its zero; the scale stays. The errors are split into a part E
that may be large and a part near 0, and two steps alternate:

    E    = sign(e) · max(|e| − |e|^(p−1) / β, 0)    generalised soft-thresholding of the errors e
    zero = mean(weight − E − scale · code)          the least squares of the rest, codes rounded anew

e − E is min(|e|, |e|^(p−1) / β) with the sign of e, so a step moves the zero by the mean of that: the errors as they
are, but for large ones, which pull less. p is 1/2: the published 0.7 is a power, which is slower than a root and leaves
as much error (docs/results.md).
"""

import torch
from torch import Tensor

NEAREST, HQQ = "nearest", "hqq"
# β for errors in units of the scale, so that it means the same for weights of any size: beyond 1/4 they are large.
BETA = 8.0
ITERATIONS = 20


def fit_zero(groups: Tensor, scale: Tensor, zero: Tensor, lowest: int, highest: int) -> Tensor:
    """The zero [...,1] in float32 of groups [...,size] whose codes are `lowest` to `highest`, from the one given.

    `groups`, `scale` [...,1], above 0, and `zero` are float32, `size` is a power of 2. A group's zero depends on that
    group alone, to the bit. Takes three times the memory of the groups.
    """
    shape, size = zero.shape, groups.shape[-1]
    # The values of a group are a column: sums of rows are quick, and in an order that is the same for every group.
    values, scale, zero = groups.reshape(-1, size).t().contiguous(), scale.flatten(), zero.flatten()
    errors, large = torch.empty_like(values), torch.empty_like(values)
    for _ in range(ITERATIONS):
        torch.sub(values, zero, out=errors).div_(scale)
        errors.sub_(torch.round(errors, out=large).clamp_(lowest, highest))
        # |e|^(p−1) / β. Where an error is 0 or infinite, it is infinite or 0, and the error moves nothing.
        bound = torch.abs(errors, out=large).rsqrt_().div_(BETA)
        torch.minimum(errors, bound, out=errors)
        torch.maximum(errors, bound.neg_(), out=errors)
        zero = zero + scale * (_sum(errors) / size)
    return zero.view(shape)


def _sum(rows: Tensor) -> Tensor:
    """The sum [n] of rows [2^k,n], which are overwritten."""
    count = len(rows)
    while count > 1:
        count //= 2
        rows[:count].add_(rows[count : 2 * count])
    return rows[0]
