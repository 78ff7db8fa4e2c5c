"""Whether a Triton kernel serves on a device, or its twin."""

import importlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from itertools import starmap
from math import isnan
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..device import is_out_of_memory
from . import reference
from .kv_tensor import Stored

# The modules that hold the kernels; each imports triton.
MODULES: Mapping[str, str] = MappingProxyType(
    {
        "window_attention": "window_attention",
        "int4_matmul": "quant_matmul",
        "int8_matmul": "quant_matmul",
        "topk_cut": "topk",
        "gumbel_draw": "draw",
        "place_heads": "block",
        "silu_gate": "block",
        "add_norm": "block",
    }
)
LEAST_CAPABILITY = (8, 0)
NEW_CAPABILITY, TOO_OLD_FOR_NEW = (10, 0), ("2.", "3.0.", "3.1.", "3.2.")
# Of the size of the result: what bfloat16 and another order of sums may change in a trial.
TRIAL_TOLERANCE = 0.02
FAILED, NO_ROOM = "a trial failed", "a trial found no memory"

Function = Callable[..., Any]
Sample = Callable[[], tuple[Any, ...]]
"""Makes arguments of a kernel."""


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
        return not self.reason.startswith(NO_ROOM)

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


class Remembered:
    """A way to choose, asked once in the life of the program for each arguments.

    What it chose stays, so that nothing is tried in the middle of a run, where a step may be under capture; only
    `retry_failed`, at the beginning of one, has trials made again.
    """

    def __init__(self, pick: Callable[..., Choice]):
        self._pick, self._kept = pick, dict[Hashable, Choice]()
        _remembered.append(self)

    def __call__(self, *arguments: Hashable) -> Choice:
        if arguments not in self._kept:
            self._kept[arguments] = self._pick(*arguments)
        return self._kept[arguments]

    def forget(self, all_of_them: bool = True) -> None:
        """All choices so far, or those that are not lasting."""
        self._kept = {} if all_of_them else {key: kept for key, kept in self._kept.items() if kept.is_lasting}


_remembered: list[Remembered] = []


def retry_failed() -> None:
    """Has kernels tried again, when they are next asked for, whose trial found no memory."""
    for choice in _remembered:
        choice.forget(all_of_them=False)


def choose(kernel: str, device: torch.device | str, *samples: Sample) -> Choice:
    """The Triton kernel of this name where it works on the device, else its twin.

    It works where `unusable` has nothing against it and trials on every `sample()`, arguments on the device in the
    formats and tiles that are to come, end as the twin's do. A trial compiles, which takes seconds on a machine's
    first, and finds out what no version tells: that Triton has no C compiler, or a kernel no room on this GPU.
    """
    twin: Function = getattr(reference, kernel)
    reason = unusable(device)
    if reason:
        return Choice(twin, "eager", reason)
    function = load(kernel)
    reason = next((reason for sample in samples if (reason := self_test(function, twin, sample).reason)), "")
    return Choice(twin, "eager", reason) if reason else Choice(function, "triton", "tried on this device")


def load(kernel: str) -> Function:
    """The Triton kernel of this name, untried; raises ImportError where triton is not installed."""
    module = importlib.import_module(f"{__package__}.{MODULES[kernel]}")
    function: Function = getattr(module, kernel)
    return function


def unusable(device: torch.device | str) -> str:
    """Why the kernels cannot run on a device; empty where they may."""
    if reason := unfit(device):
        return reason
    if torch.device(device).index not in (None, current := torch.cuda.current_device()):
        return f"the kernels run on the current device, cuda:{current}, and the model is on {device}"
    try:
        triton = importlib.import_module("triton")
    except ImportError as error:
        return f"triton cannot be imported: {error}"
    version = str(getattr(triton, "__version__", ""))
    if torch.cuda.get_device_capability(device) >= NEW_CAPABILITY and version.startswith(TOO_OLD_FOR_NEW):
        return f"Triton {version} ends the program on a GPU this new; 3.3 and later do not"
    return ""


def unfit(device: torch.device | str) -> str:
    """Why a device is none that kernels for tensor cores in bfloat16 are made for; empty where it is."""
    device = torch.device(device)
    if device.type != "cuda" or torch.version.hip is not None:
        return f"the kernels are for NVIDIA GPUs, not {device.type if device.type != 'cuda' else 'ROCm'}"
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        return f"compute capability {capability}, the kernels take {LEAST_CAPABILITY} or more"
    return ""


@dataclass(frozen=True)
class SelfTest:
    """The error of a function's result against its reference, None without a result; and what is wrong, if anything."""

    error: float | None
    reason: str


def self_test(function: Function, reference: Function, sample: Sample) -> SelfTest:
    """Holds a function against its reference on a sample."""
    try:
        # Each its own arguments: some write to them.
        found, expected = (numbers(each(*sample())) for each in (function, reference))
    except Exception as error:  # Triton's compiler, the system's C compiler and the driver have no error in common
        return SelfTest(None, f"{NO_ROOM if is_out_of_memory(error) else FAILED}: {type(error).__name__}: {error}")
    off = max(starmap(_difference, zip(found, expected, strict=True)), key=lambda off: (isnan(off), off))
    wrong = f"a trial was off by {off:.2g} of the result, at most {TRIAL_TOLERANCE:g}"
    return SelfTest(off, "" if off < TRIAL_TOLERANCE else wrong)


def numbers(result: Any) -> list[Tensor]:
    """The numbers in a kernel's result, a tensor or several and what they were stored in; all but tokens in float32."""
    parts = result if isinstance(result, tuple) else (result,)
    read = (part.read(part.numbers.shape[1], torch.float32) if isinstance(part, Stored) else part for part in parts)
    return [part.float() if part.is_floating_point() else part for part in read]


def _difference(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over that of what is finite; the same infinity is no difference. Of tokens, the share
    that is another.
    """
    if not expected.is_floating_point():
        return float((found != expected).float().mean())
    off = torch.where(found == expected, 0.0, found - expected)
    return float(off.norm() / expected.where(expected.isfinite(), 0.0).norm())
