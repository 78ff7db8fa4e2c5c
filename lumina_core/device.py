"""A device: choosing it and its dtype, its free and peak memory, and running out of memory as one clear error."""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeVar

import torch

from .errors import InputError, OutOfMemory
from .host.limits import gigabytes as gigabytes
from .host.limits import proc_bytes
from .host.memory import Host
from .host.refusals import is_out_of_memory as is_out_of_memory

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

DEVICES = ("auto", "cpu", "cuda")
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
# The share of the available host memory that a run may take. The estimate of a run was up to 6 % too low, other
# programs go on allocating, and a host that runs out of memory kills the process instead of refusing an allocation.
HOST_SHARE = 0.9
# The first NVIDIA GPUs that compute in bf16; PyTorch emulates it on older ones, slowly.
BF16_CAPABILITY = 8


def choose_device(name: str | torch.device | None) -> torch.device:
    """The device of a name; auto, or None, is CUDA where there is a device, else the CPU.

    Raises InputError for a name that is none, and for a device that is not there.
    """
    if name is None or (isinstance(name, str) and name == "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = _named_device(name)
    if device.type == "cuda":
        _check_cuda(device)
    elif device.type != "cpu":
        _check_holds_values(device)
    return torch.device("cpu") if device.type == "cpu" else device


def dtype_or_choice(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype, by itself or by one of the names in DTYPES; that of `choose_dtype` for None and auto.

    Raises InputError for a dtype that no picture is computed in.
    """
    if dtype is None or (isinstance(dtype, str) and dtype == "auto"):
        return choose_dtype(device)
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or found not in DTYPES.values():
        raise InputError(
            f"dtype is {dtype!r:.{MOST_SHOWN}}; expected auto, bf16, fp32, fp16 or fp64, or the dtype of PyTorch"
        )
    return found


def choose_dtype(device: torch.device) -> torch.dtype:
    """The dtype to compute in where the user names none: bf16 on a GPU that has it, else fp32."""
    return torch.bfloat16 if has_bf16(device) else torch.float32


def has_bf16(device: torch.device) -> bool:
    """Whether a device is a GPU that computes in bf16 itself. Emulation by PyTorch does not count."""
    if device.type != "cuda":
        return False
    if torch.version.hip:
        return torch.cuda.is_bf16_supported()
    return torch.cuda.get_device_capability(device)[0] >= BF16_CAPABILITY


def warn_if_emulated(dtype: torch.dtype, device: torch.device) -> None:
    """Logs a warning where a GPU computes in a dtype by emulation only."""
    if dtype == torch.bfloat16 and device.type == "cuda" and not has_bf16(device):
        logger.warning("%s has no bf16 and emulates it slowly; fp32, int8 or int4 weights suit it", device_name(device))


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def available_bytes(device: torch.device, already_loaded: int = 0) -> int | None:
    """Bytes that a run may take: the free memory of a GPU, or HOST_SHARE of what a host has available.

    `already_loaded` are bytes that the run's estimate counts and that are in use by now, such as its weights; they are
    added. A container's limit counts, and so does one of the process. None where the memory is unknown.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + already_loaded
    host = _host_bytes(device)
    return None if host is None else host + already_loaded


def total_bytes(device: torch.device) -> int | None:
    """All memory of a GPU, or that of the host within the limits of container and process; None where unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return Host().total_bytes()


def free_bytes(device: torch.device) -> int | None:
    """Bytes free now: of a GPU with what PyTorch reserves unused, or HOST_SHARE of what a host has available."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return _host_bytes(device)


def peak_bytes(device: torch.device) -> int | None:
    """The most bytes held so far: by PyTorch on a GPU, else by the process; None where it is unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # On Linux `getrusage` may report the parent process's peak; /proc reports this process's own.
    if (peak := proc_bytes("self/status", "VmHWM")) is not None:
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


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
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _named_device(name: str | torch.device) -> torch.device:
    if isinstance(name, str | torch.device):
        with contextlib.suppress(RuntimeError, ValueError):
            return torch.device(name)
    raise InputError(f"the device is {name!r:.{MOST_SHOWN}}; expected auto, cpu, cuda, or one of several as cuda:0")


def _check_cuda(device: torch.device) -> None:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise InputError(
            f"the device is {device} and PyTorch finds no CUDA device; use cpu, or a CUDA build of PyTorch"
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
        raise InputError(
            f"the device is {device} and PyTorch cannot use it here; expected auto, cpu or cuda"
        ) from error


def _host_bytes(device: torch.device) -> int | None:
    """What a run on a device that uses the host's memory may take; None for others, and where it is unknown."""
    available = Host().available_bytes() if device.type in ("cpu", "mps") else None
    return None if available is None else int(HOST_SHARE * available)
