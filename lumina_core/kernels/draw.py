"""Draws by the Gumbel-max trick in one pass over the logits, in a Triton kernel.

The noise of a code is a hash of the picture's key, the token's index and the code; it is computed where it is added and
never stored.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from ..errors import InputError
from .noise import GOLDEN, GUMBEL, MAX_UNIFORM, MIN_UNIFORM, MULTIPLY_1, MULTIPLY_2
from .topk import MAX_LOGITS, kth_largest, warps_for

_GOLDEN, _MULTIPLY_1, _MULTIPLY_2 = tl.constexpr(GOLDEN), tl.constexpr(MULTIPLY_1), tl.constexpr(MULTIPLY_2)
_STREAM, _MIN, _MAX = tl.constexpr(GUMBEL), tl.constexpr(MIN_UNIFORM), tl.constexpr(MAX_UNIFORM)
# Below it four terms of the series of −log1p(−u) are exact in float32.
_SERIES = tl.constexpr(2.0**-7)


@triton.jit
def _mix(x):
    """SplitMix64's output function on uint64."""
    x += _GOLDEN
    x = (x ^ (x >> 30)) * _MULTIPLY_1
    x = (x ^ (x >> 27)) * _MULTIPLY_2
    return x ^ (x >> 31)


@triton.jit
def _gumbel(bits, INTERPRETED: tl.constexpr):
    """Standard Gumbel noise of hashes; Triton's interpreter has no libdevice."""
    uniform = tl.minimum(tl.maximum((bits >> 11).to(tl.float32) * 1.1102230246251565e-16, _MIN), _MAX)
    if INTERPRETED:
        series = uniform * (1 + uniform * (0.5 + uniform * (1 / 3 + uniform * 0.25)))
        return -tl.log(tl.where(uniform < _SERIES, series, -tl.log(1 - uniform)))
    else:  # noqa: RET505 - Triton compiles one of the branches
        return -libdevice.log(-libdevice.log1p(-uniform))


@triton.jit(do_not_specialize=["width", "top_k"])
def _draw_row(
    logits, keys, index, out, width, count, top_k, CUT: tl.constexpr, BLOCK: tl.constexpr, INTERPRETED: tl.constexpr
):
    """One token."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    inside = place < count
    values = tl.load(logits + row * count + place, mask=inside, other=-float("inf"))
    if CUT:
        values = tl.where(values < kth_largest(values, inside, top_k), -float("inf"), values)
    key, at = tl.load(keys + row // width).to(tl.uint64, bitcast=True), tl.load(index + row).to(tl.uint64, bitcast=True)
    bits = _mix(_mix(_mix(key ^ _STREAM) ^ at) ^ place.to(tl.uint64))
    tl.store(out + row, tl.argmax(values + _gumbel(bits, INTERPRETED), 0).to(tl.int64))


def gumbel_draw(logits: Tensor, keys: Tensor, index: Tensor, top_k: int, warps: int | None = None) -> Tensor:
    """Tokens [N,S] of logits [N,S,K] for pictures with keys [N] at token indices [N,S]. See the reference.

    A program of `warps` (None: by K) has one token. No logit is NaN. Raises InputError unless the dtype is float32, k
    at least 1 and K at most 65,536.
    """
    pictures, slots, count = logits.shape
    if logits.dtype != torch.float32 or top_k < 1 or count > MAX_LOGITS:
        raise InputError(
            f"{count} logits in {logits.dtype} and top-k {top_k}; expected at most {MAX_LOGITS} in torch.float32 and "
            "1 or more: use the reference for others"
        )
    out = torch.empty(pictures, slots, dtype=torch.int64, device=logits.device)
    block = triton.next_power_of_2(count)
    options = {"BLOCK": block, "num_warps": warps_for(block) if warps is None else warps}
    operands = logits.contiguous(), keys.contiguous(), index.contiguous(), out, slots, count, top_k
    _draw_row[(pictures * slots,)](*operands, CUT=top_k < count, INTERPRETED=not logits.is_cuda, **options)
    return out
