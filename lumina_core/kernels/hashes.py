"""The random numbers of `noise`, for Triton kernels: hashes of coordinates, never stored."""

import triton
import triton.language as tl
from triton.language.extra import libdevice

from .noise import ACCEPT, FRESH, GOLDEN, GUMBEL, MAX_UNIFORM, MIN_UNIFORM, MULTIPLY_1, MULTIPLY_2, REDRAW

_GOLDEN, _MULTIPLY_1, _MULTIPLY_2 = tl.constexpr(GOLDEN), tl.constexpr(MULTIPLY_1), tl.constexpr(MULTIPLY_2)
_MIN, _MAX = tl.constexpr(MIN_UNIFORM), tl.constexpr(MAX_UNIFORM)
GUMBEL_STREAM, ACCEPT_STREAM = tl.constexpr(GUMBEL), tl.constexpr(ACCEPT)
REDRAW_STREAM, FRESH_STREAM = tl.constexpr(REDRAW), tl.constexpr(FRESH)
# Below it four terms of the series of −log1p(−u) are exact in float32.
_SERIES = tl.constexpr(2.0**-7)


@triton.jit
def mix(x):
    """SplitMix64's output function on uint64."""
    x += _GOLDEN
    x = (x ^ (x >> 30)) * _MULTIPLY_1
    x = (x ^ (x >> 27)) * _MULTIPLY_2
    return x ^ (x >> 31)


@triton.jit
def index_hash(key, index, STREAM: tl.constexpr):
    """Hashes of a picture's key, a stream and indices."""
    return mix(mix(key.to(tl.uint64, bitcast=True) ^ STREAM) ^ index.to(tl.uint64))


@triton.jit
def step_hash(key, index, step, STREAM: tl.constexpr):
    """As `index_hash`, of the number of the forward too."""
    return mix(index_hash(key, index, STREAM) ^ step.to(tl.uint64))


@triton.jit
def to_uniform(bits):
    """Hashes as float32 in (0, 1)."""
    return tl.minimum(tl.maximum((bits >> 11).to(tl.float32) * 1.1102230246251565e-16, _MIN), _MAX)


@triton.jit
def code_times(bits, place, INTERPRETED: tl.constexpr):
    """Exponential numbers of the codes `place`, of a hash; Triton's interpreter has no libdevice."""
    uniform = to_uniform(mix(bits ^ place.to(tl.uint64)))
    if INTERPRETED:
        series = uniform * (1 + uniform * (0.5 + uniform * (1 / 3 + uniform * 0.25)))
        return tl.where(uniform < _SERIES, series, -tl.log(1 - uniform))
    else:  # noqa: RET505 - Triton compiles one of the branches
        return -libdevice.log1p(-uniform)


@triton.jit
def code_noise(bits, place, INTERPRETED: tl.constexpr):
    """Gumbel noise of the codes `place`, of a hash."""
    times = code_times(bits, place, INTERPRETED)
    return -tl.log(times) if INTERPRETED else -libdevice.log(times)
