"""Whether a Triton kernel serves on a device, or its twin."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from . import eager

# The modules that hold the kernels; each imports triton.
MODULES: Mapping[str, str] = MappingProxyType(
    {
        "window_attention": "window_attention",
        "int4_matmul": "quant_matmul",
        "int8_matmul": "quant_matmul",
        "topk_cut": "topk",
    }
)
LEAST_CAPABILITY = (8, 0)
# Of the size of the result: what bfloat16 and another order of sums may change in a trial.
TRIAL_TOLERANCE = 0.02
FAILED = "a trial failed"

Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Choice:
    """A function to call: `name` says what it is, triton or eager, and `reason` why."""

    function: Function
    name: str
    reason: str

    @property
    def is_kernel(self) -> bool:
        return self.name == "triton"

    @property
    def is_lasting(self) -> bool:
        """Whether it would be the same at another time; memory that ran out may be there then."""
        return not self.reason.startswith(FAILED)

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


def choose(kernel: str, device: torch.device | str, *samples: Callable[[], tuple[Any, ...]]) -> Choice:
    """The Triton kernel of this name where it works on the device, else its twin.

    It works where `unusable` has nothing against it and trials on every `sample()`, arguments on the device in the
    formats and tiles that are to come, end as the twin's do. A trial compiles, which takes seconds on a machine's
    first, and finds out what no version tells: that Triton has no C compiler, or a kernel no room on this GPU.
    """
    twin: Function = getattr(eager, kernel)
    reason = unusable(device)
    if reason:
        return Choice(twin, "eager", reason)
    function = load(kernel)
    reason = next((reason for sample in samples if (reason := _try(function, twin, sample))), "")
    return Choice(twin, "eager", reason) if reason else Choice(function, "triton", "tried on this device")


def load(kernel: str) -> Function:
    """The Triton kernel of this name, untried; raises ImportError where triton is not installed."""
    module = importlib.import_module(f"{__package__}.{MODULES[kernel]}")
    function: Function = getattr(module, kernel)
    return function


def unusable(device: torch.device | str) -> str:
    """Why the kernels cannot run on a device; empty where they may."""
    device = torch.device(device)
    if device.type != "cuda" or torch.version.hip is not None:
        return f"the kernels are for NVIDIA GPUs, not {device.type if device.type != 'cuda' else 'ROCm'}"
    if device.index not in (None, current := torch.cuda.current_device()):
        return f"the kernels run on the current device, cuda:{current}, and the model is on {device}"
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        return f"compute capability {capability}, the kernels take {LEAST_CAPABILITY} or more"
    try:
        importlib.import_module("triton")
    except ImportError as error:
        return f"triton cannot be imported: {error}"
    return ""


def _try(function: Function, twin: Function, sample: Callable[[], tuple[Any, ...]]) -> str:
    """What is wrong with a kernel's result; empty where it is the twin's."""
    try:
        arguments = sample()
        found, expected = function(*arguments).float(), twin(*arguments).float()
    except Exception as error:  # Triton's compiler, the system's C compiler and the driver have no error in common
        return f"{FAILED}: {type(error).__name__}: {error}"
    off = _difference(found, expected)
    return "" if off < TRIAL_TOLERANCE else f"a trial was off by {off:.2g} of the result, at most {TRIAL_TOLERANCE:g}"


def _difference(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over that of what is finite; the same infinity is no difference."""
    off = torch.where(found == expected, 0.0, found - expected)
    return float(off.norm() / expected.where(expected.isfinite(), 0.0).norm())
