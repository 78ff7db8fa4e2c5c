"""A device: choosing it and its dtype, its free and peak memory, and running out of memory as one clear error."""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from .errors import InputError, OutOfMemory

Result = TypeVar("Result")

DEVICES = ("auto", "cpu", "cuda")
# Messages of PyTorch's CPU allocator, CUDA's driver and its libraries, which raise plain RuntimeErrors.
_REFUSAL = re.compile(r"can't allocate memory|not enough memory|out of memory|ALLOC_FAILED", re.IGNORECASE)


def choose_device(name: str | torch.device) -> torch.device:
    """The device of a name; auto is CUDA where there is a device. Raises InputError for "cuda" where there is none."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError("the device is cuda and PyTorch finds no CUDA device; use cpu, or a CUDA build of PyTorch")
    return torch.device(("cuda" if available else "cpu") if name == "auto" else name)


def choose_dtype(device: torch.device) -> torch.dtype:
    """The dtype to compute in where the user names none: bf16 on a GPU that has it, else fp32."""
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def available_bytes(device: torch.device) -> int | None:
    """Bytes that a run may take: free memory of a GPU, all physical memory of a CPU; None where it is unknown."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else total_bytes(device)


def total_bytes(device: torch.device) -> int | None:
    """All memory of a GPU, all physical memory of a CPU; None where it is unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows; a name that this system lacks
        return None


def free_bytes(device: torch.device) -> int | None:
    """Bytes free now: of a GPU with what PyTorch reserves unused, or of a Linux host; None elsewhere."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return _proc_bytes("meminfo", "MemAvailable") if device.type == "cpu" else None


def peak_bytes(device: torch.device) -> int | None:
    """The most bytes held so far: by PyTorch on a GPU, else by the process; None where it is unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # On Linux `getrusage` may report the parent process's peak; /proc reports this process's own.
    if (peak := _proc_bytes("self/status", "VmHWM")) is not None:
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error is a failed allocation on a device or the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _REFUSAL.search(str(error)) is not None


def explain_out_of_memory(run: Callable[[], Result], message: Callable[[], str]) -> Result:
    """The result of `run()`. Turns a failed allocation into OutOfMemory with this message, after freeing memory.

    The traceback of a failed call keeps its tensors alive. So this is no `with` block, which keeps the traceback, and
    the new error is raised when the old one is gone.
    """
    try:
        return run()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    free_memory()
    raise OutOfMemory(message())


def free_memory() -> None:
    """Frees what nothing refers to any more, PyTorch's cache included."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def gigabytes(count: float) -> str:
    """Bytes for reading: GB from 0.1 GB on, else MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def _proc_bytes(file: str, name: str) -> int | None:
    """A number of bytes in a file of Linux's /proc, or None."""
    path = Path("/proc", file)
    found = re.search(rf"{name}:\s*(\d+) kB", path.read_text()) if path.exists() else None
    return int(found[1]) * 1024 if found else None
