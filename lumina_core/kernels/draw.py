"""Tokens drawn by the Gumbel-max trick in one pass over their logits, in a Triton kernel.

The noise of every code is made where it is added: it is a hash of the picture's key, the token's index and the code,
and need not be stored.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from ..errors import InputError
from .noise import GOLDEN, GUMBEL, LARGEST_UNIFORM, LEAST_UNIFORM, MULTIPLY_1, MULTIPLY_2
from .topk import MOST_LOGITS, kth_largest, warps_for

_GOLDEN, _MULTIPLY_1, _MULTIPLY_2 = tl.constexpr(GOLDEN), tl.constexpr(MULTIPLY_1), tl.constexpr(MULTIPLY_2)
_STREAM, _LEAST, _LARGEST = tl.constexpr(GUMBEL), tl.constexpr(LEAST_UNIFORM), tl.constexpr(LARGEST_UNIFORM)
# Below it four terms of the series of log1p are exact to float32.
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
    """Standard Gumbel noise of hashes; the interpreter has no libdevice."""
    uniform = tl.minimum(tl.maximum((bits >> 11).to(tl.float32) * 1.1102230246251565e-16, _LEAST), _LARGEST)
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
    """Tokens [N,S] of logits [N,S,K] for pictures with keys [N] at token indices [N,S]. As its twin of `eager`.

    A program, of so many `warps` (None: by K), has one token. In float32, none of them NaN; k is 1 or more, K at most
    65,536. Raises InputError for others.
    """
    pictures, slots, count = logits.shape
    if logits.dtype != torch.float32 or top_k < 1 or count > MOST_LOGITS:
        raise InputError(
            f"{count} logits in {logits.dtype} and top-k {top_k}; expected at most {MOST_LOGITS} in torch.float32 and "
            "1 or more: use the eager twin for others"
        )
    out = torch.empty(pictures, slots, dtype=torch.int64, device=logits.device)
    block = triton.next_power_of_2(count)
    _draw_row[(pictures * slots,)](
        logits.contiguous(),
        keys.contiguous(),
        index.contiguous(),
        out,
        slots,
        count,
        top_k,
        CUT=top_k < count,
        BLOCK=block,
        INTERPRETED=not logits.is_cuda,
        num_warps=warps_for(block) if warps is None else warps,
    )
    return out
