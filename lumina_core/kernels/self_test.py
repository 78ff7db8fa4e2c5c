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
from .kv_tensor import TINY, KVTensor
from .window_state import WindowState

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
        found, expected = (_tensors_of(each, sample(device)) for each in (function, reference))
    except Exception as error:  # Triton's compiler, the system's C compiler and the driver have no error in common
        out_of_memory = is_out_of_memory(error)
        what = "ran out of memory" if out_of_memory else "failed"
        return SelfTest(None, f"the self-test {what}: {type(error).__name__}: {error}", out_of_memory)
    largest = max(starmap(_relative_error, zip(found, expected, strict=True)), key=lambda each: (isnan(each), each))
    wrong = f"the self-test found an error of {largest:.2g} of the result; expected less than {TOLERANCE:g}"
    return SelfTest(largest, "" if largest < TOLERANCE else wrong)


def result_tensors(*results: Any) -> list[Tensor]:
    """The tensors of results, caches dequantised, windows as what a step changes; all but tokens in float32."""
    tensors = list[Tensor]()
    for result in results:
        if isinstance(result, Tensor):
            tensors.append(result.float() if result.is_floating_point() else result)
        elif isinstance(result, KVTensor):
            tensors.append(result.read(result.values.shape[1], torch.float32))
        elif isinstance(result, WindowState | tuple):
            tensors.extend(result_tensors(*(result.changed if isinstance(result, WindowState) else result)))
    return tensors


def _tensors_of(function: Function, arguments: tuple[Any, ...]) -> list[Tensor]:
    """What a call returns, and the windows that it may have moved."""
    result = function(*arguments)
    return result_tensors(result, *(each for each in arguments if isinstance(each, WindowState)))


def _relative_error(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over that of the finite expected values; of tokens, the share that differs.

    Equal infinities are no difference.
    """
    if not expected.numel():
        return 0.0
    if not expected.is_floating_point():
        return float((found != expected).float().mean())
    difference = torch.where(found == expected, 0.0, found - expected)
    return float(difference.norm() / expected.where(expected.isfinite(), 0.0).norm().clamp_min(TINY))
