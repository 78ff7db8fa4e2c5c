"""A device: choosing it and its dtype, its free and peak memory, and running out of memory as one clear error.

A GPU is CUDA's (ROCm's too), Intel's (xpu) or Apple's (mps). What torch.cuda, torch.xpu and torch.mps have in common is
called by name; what one of them lacks, or an older PyTorch, is unknown.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import torch

from .errors import InputError, OutOfMemory
from .host.limits import gigabytes as gigabytes
from .host.limits import proc_bytes
from .host.memory import Host
from .host.refusals import is_out_of_memory as is_out_of_memory

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

# The first version with `enable_gqa` in `scaled_dot_product_attention`; with it all tests pass.
TORCH = (2, 5)
# In the order in which auto takes them.
GPUS = ("cuda", "xpu", "mps")
DEVICES = ("auto", "cpu", *GPUS)
EXPECTED = "expected auto, cpu, cuda, xpu or mps, or one of several as cuda:0"
DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {
        "bf16": torch.bfloat16,
        "fp32": torch.float32,
        "fp16": torch.float16,
        "fp64": torch.float64,
        "bfloat16": torch.bfloat16,
        "float32": torch.float32,
        "float16": torch.float16,
        "float64": torch.float64,
    }
)
MOST_SHOWN = 100
# Devices that use the host's memory.
HOSTED = ("cpu", "mps")
# The share of the available host memory that a run may take. The estimate of small runs was up to 140 MB low, other
# programs go on allocating, and a host that runs out of memory kills the process instead of refusing an allocation.
HOST_SHARE = 0.9
# The first NVIDIA GPUs that compute in bf16; PyTorch emulates it on older ones, slowly.
BF16_CAPABILITY = 8


def check_torch(version: str) -> None:
    """Raises ImportError for a PyTorch that is too old; called when the engine is imported."""
    if tuple(map(int, version.split(".")[:2])) < TORCH:
        raise ImportError(f"this is PyTorch {version}; expected {'.'.join(map(str, TORCH))} or later: update it")


check_torch(torch.__version__)


def choose_device(name: str | torch.device | None) -> torch.device:
    """The device of a name; auto, or None, is the first of GPUS that is there, else the CPU, which is logged.

    Raises InputError for a name that is none, and for a device that is not there, which says what is.
    """
    if name is None or (isinstance(name, str) and name == "auto"):
        device = torch.device(next((kind for kind in GPUS if _count(kind)), "cpu"))
        logger.info("device auto: %s", device if device.type == "cpu" else f"{device}, {device_name(device)}")
        return device
    device = _named_device(name)
    if device.type in GPUS:
        _check_is_there(device)
    if device.type not in ("cpu", "cuda"):
        _check_holds_values(device)
    return torch.device("cpu") if device.type == "cpu" else device


def is_device_name(name: str) -> bool:
    """Whether a text names one of DEVICES, or one of several as cuda:0; it need not be there."""
    kind, colon, number = name.partition(":")
    return kind in DEVICES and (not colon or (kind in GPUS and number.isascii() and number.isdigit()))


def dtype_or_choice(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype, by itself or by one of the names in DTYPES; that of `choose_dtype` for None and auto.

    Raises InputError for a dtype that no picture is computed in, or that the device does not hold.
    """
    if dtype is None or (isinstance(dtype, str) and dtype == "auto"):
        return choose_dtype(device)
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or found not in DTYPES.values():
        raise InputError(
            f"dtype is {dtype!r:.{MOST_SHOWN}}; expected auto, bf16, fp32, fp16 or fp64, or the dtype of PyTorch"
        )
    check_dtype(found, device)
    return found


def choose_dtype(device: torch.device) -> torch.dtype:
    """The dtype to compute in where the user names none: bf16 on a GPU that has it, else fp16; fp32 on a CPU."""
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if has_bf16(device) else torch.float16


def has_bf16(device: torch.device) -> bool:
    """Whether a device is a GPU that computes in bf16 itself. Emulation by PyTorch does not count."""
    if device.type == "cpu":
        return False
    if device.type == "cuda" and not torch.version.hip:
        return torch.cuda.get_device_capability(device)[0] >= BF16_CAPABILITY
    supported = getattr(getattr(torch, device.type, None), "is_bf16_supported", None)
    if device.type == "xpu" and supported is not None:
        with contextlib.suppress(TypeError):  # PyTorch 2.5 knows no emulation
            return bool(supported(including_emulation=False))
    return _multiplies(torch.bfloat16, device) if supported is None else bool(supported())


def check_dtype(dtype: torch.dtype, device: torch.device) -> None:
    """Raises InputError for a dtype that a device does not hold, as Apple's no float64 and, before macOS 14, no bf16.

    (pytorch/pytorch#122602: "expected behavior and known limitation" of Metal.)
    """
    if device.type in ("cpu", "cuda", "meta") or _multiplies(dtype, device):
        return
    name = str(dtype).removeprefix("torch.")
    held = [short for short in ("fp32", "fp16", "bf16") if DTYPES[short] != dtype]
    raise InputError(f"{device_name(device)} does not compute in {name}; expected other weights: {', '.join(held)}")


def warn_if_emulated(dtype: torch.dtype, device: torch.device) -> None:
    """Logs a warning where a GPU computes in a dtype by emulation only."""
    if dtype == torch.bfloat16 and device.type in ("cuda", "xpu") and not has_bf16(device):
        logger.warning("%s has no bf16 and emulates it slowly; fp16, int8 or int4 weights suit it", device_name(device))


def device_name(device: torch.device) -> str:
    """What the driver calls it, or the name of the kind."""
    return str(_ask(device, "get_device_name") or device.type)


def available_bytes(device: torch.device, already_loaded: int = 0) -> int | None:
    """Bytes that a run may take: the free memory of a GPU, or HOST_SHARE of what a host has available.

    `already_loaded` are bytes that the run's estimate counts and that are in use by now, such as its weights; they are
    added. A container's limit counts, and so does one of the process. None where the memory is unknown.
    """
    known = [part for part in (_host_bytes(device), _memory(device)[0]) if part is not None]
    return min(known) + already_loaded if known else None


def total_bytes(device: torch.device) -> int | None:
    """All memory of a GPU, or that of the host within the limits of container and process; None where unknown."""
    host = Host().total_bytes() if device.type in HOSTED else None
    known = [part for part in (host, _memory(device)[1]) if part is not None]
    return min(known) if known else None


def free_bytes(device: torch.device) -> int | None:
    """Bytes free now: of a GPU with what PyTorch reserves unused, or HOST_SHARE of what a host has available."""
    free, host = _memory(device)[0], _host_bytes(device)
    if free is not None:
        free += (_ask(device, "memory_reserved") or 0) - (_ask(device, "memory_allocated") or 0)
    known = [part for part in (host, free) if part is not None]
    return min(known) if known else None


def peak_bytes(device: torch.device) -> int | None:
    """The most bytes held so far: by PyTorch on a GPU, else by the process; None where it is unknown."""
    if device.type != "cpu" and (most := _ask(device, "max_memory_allocated")) is not None:
        return int(most)
    # On Linux `getrusage` may report the parent process's peak; /proc reports this process's own.
    if (peak := proc_bytes("self/status", "VmHWM")) is not None:
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak(device: torch.device) -> None:
    """Counts `peak_bytes` of a GPU anew, where it can."""
    _ask(device, "reset_peak_memory_stats")


def synchronize(device: torch.device) -> None:
    """Waits until a device has done its work."""
    _ask(device, "synchronize")


def explain_out_of_memory(run: Callable[[], Result], message: Callable[[], str]) -> Result:
    """The result of `run()`. Turns a failed allocation into OutOfMemory with this message, after freeing memory.

    The traceback of a failed call keeps its tensors alive. So this is no `with` block, which keeps the traceback, and
    the new error is raised when the old one is gone. An OutOfMemory within, which has its own message, comes through.
    """
    try:
        return run()
    except OutOfMemory:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        logger.info("memory was refused: %s", str(error).partition("\n")[0] or type(error).__name__)
    free_memory()
    raise OutOfMemory(message())


def free_memory() -> None:
    """Frees what nothing refers to any more, PyTorch's cache included."""
    gc.collect()
    for kind in GPUS:
        if _count(kind):
            getattr(torch, kind).empty_cache()


def _named_device(name: str | torch.device) -> torch.device:
    if isinstance(name, str | torch.device):
        with contextlib.suppress(RuntimeError, ValueError):
            return torch.device(name)
    raise InputError(f"the device is {name!r:.{MOST_SHOWN}}; {EXPECTED}")


def _count(kind: str) -> int:
    """Devices of one of GPUS that PyTorch finds."""
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    module = getattr(torch, kind, None)
    return int(module.device_count()) if module is not None and module.is_available() else 0


def _check_is_there(device: torch.device) -> None:
    count = _count(device.type)
    if not count:
        there = ", ".join(["cpu", *(kind for kind in GPUS if _count(kind))])
        kind = {"cuda": "CUDA", "xpu": "Intel", "mps": "Apple"}[device.type]
        raise InputError(
            f"the device is {device} and PyTorch finds no {kind} device; use {there}, or a build of PyTorch for it"
        )
    if (device.index or 0) >= count:
        raise InputError(f"the device is {device} and PyTorch finds {count}; expected a number below {count}")


def _check_holds_values(device: torch.device) -> None:
    """Raises InputError unless a value can be put on a device and read from it."""
    try:
        torch.zeros(1, device=device).item()
    except Exception as error:  # each backend raises what it likes
        if is_out_of_memory(error):
            raise
        raise InputError(f"the device is {device} and PyTorch cannot use it here; {EXPECTED}") from error


def _multiplies(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a device multiplies matrices of a dtype."""
    try:
        ones = torch.ones(8, 8, device=device).to(dtype)
        return bool((ones.float() @ ones.float() if dtype.itemsize == 1 else ones @ ones)[0, 0].item() == ones.shape[0])
    except Exception as error:  # TypeError, RuntimeError or NotImplementedError
        if is_out_of_memory(error):
            raise
        return False


def _ask(device: torch.device, name: str) -> Any:
    """The result of a function of a GPU's module in PyTorch, such as `torch.cuda.synchronize`; None without it."""
    function = None if device.type == "cpu" else getattr(getattr(torch, device.type, None), name, None)
    if function is None:
        return None
    return function() if device.type == "mps" else function(device)


def _memory(device: torch.device) -> tuple[int | None, int | None]:
    """Free bytes of a GPU, and all; None where unknown.

    Apple's GPU shares the host's memory. Metal recommends a limit for what it takes of it, about two thirds.
    """
    if device.type == "mps":
        limit, taken = _ask(device, "recommended_max_memory"), _ask(device, "driver_allocated_memory")
        return (None, None) if limit is None or taken is None else (max(0, limit - taken), limit)
    if device.type == "xpu":
        # Not every driver tells what is free, and not every PyTorch asks.
        with contextlib.suppress(RuntimeError):
            if (found := _ask(device, "mem_get_info")) is not None:
                return found
        return None, int(torch.xpu.get_device_properties(device).total_memory)
    return _ask(device, "mem_get_info") or (None, None)


def _host_bytes(device: torch.device) -> int | None:
    """What a run on a device that uses the host's memory may take; None for others, and where it is unknown."""
    available = Host().available_bytes() if device.type in HOSTED else None
    return None if available is None else int(HOST_SHARE * available)
