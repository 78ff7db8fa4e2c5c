"""Counter-based random numbers: functions of (seed, position), without generator state, order or device.

Every number is a hash of its coordinates (SplitMix64's output function, Steele et al., OOPSLA 2014).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

GUMBEL, ACCEPT, REDRAW, FRESH = range(4)
GOLDEN, MULTIPLY_1, MULTIPLY_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
MIN_UNIFORM, MAX_UNIFORM = 2.0**-54, 1 - 2.0**-24


def _signed(value: int) -> int:
    value %= 2**64
    return value - 2**64 if value >= 2**63 else value


def _shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """SplitMix64's output function on int64, overflow wrapping."""
    x = x + _signed(GOLDEN)
    x = (x ^ _shift_right(x, 30)) * _signed(MULTIPLY_1)
    x = (x ^ _shift_right(x, 27)) * _signed(MULTIPLY_2)
    return x ^ _shift_right(x, 31)


def picture_keys(seeds: Sequence[int], device: torch.device | str) -> Tensor:
    """One key [N] for each picture's seed."""
    return mix(torch.tensor([_signed(seed) for seed in seeds], dtype=torch.int64, device=device))


def hashed(keys: Tensor, stream: int, *coordinates: Tensor) -> Tensor:
    """int64 hash of keys, a stream number and coordinates, which broadcast against one another."""
    value = mix(keys ^ stream)
    for coordinate in coordinates:
        value = mix(value ^ coordinate)
    return value


def to_uniform(bits: Tensor) -> Tensor:
    """Hashes as float32 in (0, 1), fine-grained near 0 (53 bits before rounding)."""
    return (_shift_right(bits, 11).float() * 2.0**-53).clamp_(MIN_UNIFORM, MAX_UNIFORM)


def to_exponential(bits: Tensor) -> Tensor:
    """Hashes as exponential numbers E = −log(1 − u), fine-grained near 0."""
    return to_uniform(bits).neg_().log1p_().neg_()


def to_gumbel(bits: Tensor) -> Tensor:
    """Hashes as standard Gumbel noise −log E; large values are fine-grained."""
    return to_exponential(bits).log_().neg_()


def code_hashes(hashes: Tensor, codes: int) -> Tensor:
    """Hashes [...,codes], one for each code, of hashes [...]."""
    return mix(hashes[..., None] ^ torch.arange(codes, device=hashes.device))


def code_noise(hashes: Tensor, codes: int) -> Tensor:
    """Gumbel noise [...,codes], one for each code, of hashes [...]."""
    return to_gumbel(code_hashes(hashes, codes))


def code_times(hashes: Tensor, codes: int) -> Tensor:
    """Exponential numbers [...,codes], one for each code, of hashes [...]."""
    return to_exponential(code_hashes(hashes, codes))


def gumbel_noise(keys: Tensor, index: Tensor, codes: int) -> Tensor:
    """Gumbel noise [N,W,codes] of pictures with keys [N] at token indices [N,W]."""
    return code_noise(hashed(keys[:, None], GUMBEL, index), codes)
