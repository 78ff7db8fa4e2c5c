"""The self-test of a function on a device: its result on a sample compared with that of its reference."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import starmap
from math import isnan
from typing import Any

import torch
from torch import Tensor

from ..device import is_out_of_memory
from .kv_tensor import KVTensor

# Of the norm of the result: what bfloat16 and another order of sums may change.
TOLERANCE = 0.02

Function = Callable[..., Any]


@dataclass(frozen=True)
class Sample:
    """Arguments of a function on a device: `make(device, **sizes)`."""

    make: Callable[..., tuple[Any, ...]]
    sizes: tuple[tuple[str, Hashable], ...] = ()

    @staticmethod
    def of(make: Callable[..., tuple[Any, ...]], **sizes: Hashable) -> Sample:
        return Sample(make, tuple(sizes.items()))

    def __call__(self, device: torch.device | str) -> tuple[Any, ...]:
        return self.make(device, **dict(self.sizes))


@dataclass(frozen=True)
class SelfTest:
    """The error relative to the reference's result, None without a result; why the function failed, "" if it passed."""

    error: float | None
    reason: str
    out_of_memory: bool = False


def self_test(function: Function, reference: Function, sample: Sample, device: torch.device | str) -> SelfTest:
    """Compares a function with its reference on a sample."""
    try:
        # Some functions write to their arguments, so each has its own.
        found, expected = (result_tensors(each(*sample(device))) for each in (function, reference))
    except Exception as error:  # Triton's compiler, the system's C compiler and the driver have no error in common
        out_of_memory = is_out_of_memory(error)
        what = "ran out of memory" if out_of_memory else "failed"
        return SelfTest(None, f"the self-test {what}: {type(error).__name__}: {error}", out_of_memory)
    largest = max(starmap(_relative_error, zip(found, expected, strict=True)), key=lambda each: (isnan(each), each))
    wrong = f"the self-test found an error of {largest:.2g} of the result; expected less than {TOLERANCE:g}"
    return SelfTest(largest, "" if largest < TOLERANCE else wrong)


def result_tensors(result: Any) -> list[Tensor]:
    """The tensors of a function's result, caches dequantised; all but tokens in float32."""
    parts = result if isinstance(result, tuple) else (result,)
    read = (part.read(part.values.shape[1], torch.float32) if isinstance(part, KVTensor) else part for part in parts)
    return [part.float() if part.is_floating_point() else part for part in read]


def _relative_error(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over that of the finite expected values; of tokens, the share that differs.

    Equal infinities are no difference.
    """
    if not expected.is_floating_point():
        return float((found != expected).float().mean())
    difference = torch.where(found == expected, 0.0, found - expected)
    return float(difference.norm() / expected.where(expected.isfinite(), 0.0).norm())
