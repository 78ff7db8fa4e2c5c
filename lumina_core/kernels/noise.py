"""Counter-based random numbers: functions of (seed, position), without generator state, order or device.

Every number is a hash of its coordinates (SplitMix64's output function, Steele et al., OOPSLA 2014). The hashes are the
same on every device: one whose int64 arithmetic does not wrap as that of a CPU leaves them to the CPU.
"""

import logging
from collections.abc import Callable, Sequence
from functools import cache, wraps

import torch
from torch import Tensor

from ..device import is_out_of_memory

logger = logging.getLogger(__name__)

GUMBEL, ACCEPT, REDRAW, FRESH = range(4)
GOLDEN, MULTIPLY_1, MULTIPLY_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
MIN_UNIFORM, MAX_UNIFORM = 2.0**-54, 1 - 2.0**-24
# Devices whose int64 arithmetic is known; others are tested (one that was wrong: pytorch/pytorch#78848).
KNOWN_DEVICES = ("cpu", "cuda", "meta")

Function = Callable[..., Tensor]


def on_any_device(function: Function) -> Function:
    """A function of int64 tensors that runs on the CPU for a device that would compute something else."""

    @wraps(function)
    def run(first: Tensor, *others: Tensor | int) -> Tensor:
        if first.device.type in KNOWN_DEVICES or computes_hashes(first.device):
            return function(first, *others)
        on_host = (other.cpu() if isinstance(other, Tensor) else other for other in others)
        return function(first.cpu(), *on_host).to(first.device)

    return run


@cache
def computes_hashes(device: torch.device) -> bool:
    """Whether the noise on a device is that of the CPU. The log says so where it is not."""
    expected = mix(mix(torch.arange(64)) ^ ACCEPT)
    try:
        found = mix(mix(torch.arange(64, device=device)) ^ ACCEPT)
        uniform = torch.allclose(_uniform(found).cpu(), _uniform(expected), rtol=1e-6, atol=0)
        same = uniform and torch.equal(found.cpu(), expected)
    except (RuntimeError, TypeError) as error:
        if is_out_of_memory(error):  # says nothing of the device, and the answer is kept
            raise
        same = False
    if not same:
        logger.warning("%s computes int64 otherwise than a CPU, so random numbers come from the CPU, slowly", device)
    return same


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


@on_any_device
def hashed(keys: Tensor, stream: int, *coordinates: Tensor) -> Tensor:
    """int64 hash of keys, a stream number and coordinates, which broadcast against one another."""
    value = mix(keys ^ stream)
    for coordinate in coordinates:
        value = mix(value ^ coordinate)
    return value


@on_any_device
def to_uniform(bits: Tensor) -> Tensor:
    """Hashes as float32 in (0, 1), fine-grained near 0 (53 bits before rounding)."""
    return _uniform(bits)


def _uniform(bits: Tensor) -> Tensor:
    return (_shift_right(bits, 11).float() * 2.0**-53).clamp_(MIN_UNIFORM, MAX_UNIFORM)


def to_exponential(bits: Tensor) -> Tensor:
    """Hashes as exponential numbers E = −log(1 − u), fine-grained near 0."""
    return to_uniform(bits).neg_().log1p_().neg_()


def to_gumbel(bits: Tensor) -> Tensor:
    """Hashes as standard Gumbel noise −log E; large values are fine-grained."""
    return to_exponential(bits).log_().neg_()


@on_any_device
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
