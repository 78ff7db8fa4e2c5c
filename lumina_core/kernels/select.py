"""The selection between a Triton kernel and its reference on a device."""

import importlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import torch

from ..errors import OutOfMemory
from . import reference, window_reference
from .self_test import Function, Sample, self_test
from .warm_up import KERNELS, tell

logger = logging.getLogger(__name__)

# The module of each kernel; each imports triton.
MODULES: Mapping[str, str] = MappingProxyType(
    {
        "window_attention": "window_attention",
        "int4_matmul": "quant_matmul",
        "int8_matmul": "quant_matmul",
        "embed_window": "window",
        "draw_window": "draw",
        "accept_window": "window",
        "place_drafts": "draw",
        "keep_branch": "branch",
        "qkv_norm_rope_store": "block",
        "silu_gate": "block",
        "add_rms_norm": "block",
    }
)
MIN_CAPABILITY = (8, 0)
NEW_CAPABILITY, TOO_OLD_FOR_NEW = (10, 0), ("2.", "3.0.", "3.1.", "3.2.")
PASSED = "passed its self-test on this device"


@dataclass(frozen=True)
class Choice:
    """A function to call: a Triton kernel or its reference, and why.

    `may_change`: there was no memory for a self-test, so that another choice may have another result.
    """

    function: Function
    is_kernel: bool
    reason: str
    may_change: bool = False

    def __str__(self) -> str:
        return f"{'triton' if self.is_kernel else 'torch'} ({self.reason})"


def choose(kernel: str, device: torch.device | str, samples: tuple[Sample, ...]) -> Choice:
    """The Triton kernel of this name where it works on the device, else its reference.

    It works where `unsupported_reason` has none and it passes its self-tests on the samples, whose dtypes and tiles are
    those of the run. A self-test compiles, which takes seconds at first, and finds what no version number says: that
    Triton has no C compiler, or that a kernel does not fit on this GPU. A choice is made once in a process; only after
    a self-test ran out of memory is it made again at the next call.
    """
    try:
        return _choose(kernel, torch.device(device), samples)
    except OutOfMemory as error:
        logger.info("%s on %s: torch this time (%s)", kernel, device, error)
        return Choice(reference_of(kernel), False, str(error), may_change=True)


@cache
def _choose(kernel: str, device: torch.device, samples: tuple[Sample, ...]) -> Choice:
    """As `choose`; raises OutOfMemory, which is not cached, where a self-test ran out of memory."""
    plain = reference_of(kernel)
    choice = Choice(plain, False, unsupported_reason(device))
    if not choice.reason:
        tell(KERNELS)
        function = load(kernel)
        results = (self_test(function, plain, sample, device) for sample in samples)
        failed = next((result for result in results if result.reason), None)
        if failed is not None and failed.out_of_memory:
            raise OutOfMemory(failed.reason)
        choice = Choice(function, True, PASSED) if failed is None else Choice(plain, False, failed.reason)
    logger.info("%s on %s: %s", kernel, device, choice)
    return choice


def reference_of(kernel: str) -> Function:
    """The reference of the kernel of this name."""
    module = reference if hasattr(reference, kernel) else window_reference
    function: Function = getattr(module, kernel)
    return function


def load(kernel: str) -> Function:
    """The Triton kernel of this name, untested; raises ImportError where triton is not installed."""
    module = importlib.import_module(f"{__package__}.{MODULES[kernel]}")
    function: Function = getattr(module, kernel)
    return function


def unsupported_reason(device: torch.device | str) -> str:
    """Why the Triton kernels cannot run on a device, or ""."""
    if reason := unsupported_device_reason(device):
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


def unsupported_device_reason(device: torch.device | str) -> str:
    """Why a device has no bfloat16 tensor cores of NVIDIA's, or ""."""
    device = torch.device(device)
    if device.type != "cuda" or torch.version.hip is not None:
        return f"the kernels are for NVIDIA GPUs, not {device.type if device.type != 'cuda' else 'ROCm'}"
    capability = torch.cuda.get_device_capability(device)
    if capability < MIN_CAPABILITY:
        return f"compute capability {capability}; the kernels need {MIN_CAPABILITY} or more"
    return ""
