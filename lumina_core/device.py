"""The memory of a device: how much there is, how much was held, and running out of it as one clear error."""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from .errors import OutOfMemory

Result = TypeVar("Result")

# What PyTorch's CPU allocator, CUDA's driver and its libraries say; they raise plain RuntimeErrors.
_REFUSAL = re.compile(r"can't allocate memory|not enough memory|out of memory|ALLOC_FAILED", re.IGNORECASE)


def available_bytes(device: torch.device) -> int | None:
    """What a run may take: free memory of a GPU, all physical memory of a CPU; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows; a name that this system lacks
        return None


def free_bytes(device: torch.device) -> int | None:
    """What can be taken now: free memory of a GPU with what torch keeps unused, or of a Linux host; None elsewhere."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "cpu" and (info := Path("/proc/meminfo")).exists():
        found = re.search(r"MemAvailable:\s*(\d+) kB", info.read_text())
        return int(found[1]) * 1024 if found else None
    return None


def peak_bytes(device: torch.device) -> int | None:
    """The most memory held so far: torch's on a GPU, else the process's; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    # On Linux `getrusage` may tell what the starting process held; /proc tells our own.
    status = Path("/proc/self/status")
    if status.exists() and (peak := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return int(peak[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host refused memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _REFUSAL.search(str(error)) is not None


def explain_out_of_memory(run: Callable[[], Result], message: Callable[[], str]) -> Result:
    """What `run()` gives; its running out of memory as OutOfMemory with this message, what it held freed before.

    What a failed call held hangs on its exception's traceback. So this is no `with` block, which keeps that traceback,
    and the new error is raised when the old one is gone.
    """
    try:
        return run()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    free_memory()
    raise OutOfMemory(message())


def free_memory() -> None:
    """Gives back what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def gigabytes(count: float) -> str:
    """Bytes for reading: GB from a tenth of one on, else MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
