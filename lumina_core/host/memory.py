"""The memory of this computer that this process may take: all of it, and what is available now."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cgroups import cgroup_limits
from .limits import PROC, Limit, proc_bytes, process_limits


@dataclass(frozen=True)
class Host:
    """A computer: its operating system, and where Linux describes itself."""

    system: str = sys.platform
    proc: Path = PROC

    def total_bytes(self) -> int | None:
        """The physical memory, or the least limit of this process and its containers; None where unknown."""
        return _least([_physical(self), *(limit.most for limit in self._limits())])

    def available_bytes(self) -> int | None:
        """What can be allocated now without swapping, within the same limits; None where unknown.

        Memory that the system can free at once, such as its page cache, is available.
        """
        return _least([_available(self), *(limit.room for limit in self._limits())])

    def _limits(self) -> Iterator[Limit]:
        yield from cgroup_limits(self.proc)
        yield from process_limits(self.proc)


def _least(values: list[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _physical(host: Host) -> int | None:
    if host.system == "win32":
        return windows_bytes()[0]
    if (total := proc_bytes("meminfo", "MemTotal", host.proc)) is not None:
        return total
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # a name that this system lacks
        return None


def _available(host: Host) -> int | None:
    if host.system == "win32":
        return windows_bytes()[1]
    if host.system == "darwin":
        return macos_available_bytes()
    return proc_bytes("meminfo", "MemAvailable", host.proc)


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of Windows."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        *((name, ctypes.c_uint64) for name in ("total", "available", "total_commit", "available_commit")),
        *((name, ctypes.c_uint64) for name in ("total_virtual", "available_virtual", "available_extended")),
    )


def windows_bytes(kernel32: Any = None) -> tuple[int | None, int | None]:
    """Physical memory, and what can be allocated: the paging file limits it too."""
    kernel32 = ctypes.windll.kernel32 if kernel32 is None else kernel32  # type: ignore[attr-defined, unused-ignore]
    status = _MemoryStatus()
    status.length = ctypes.sizeof(status)
    if not kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None, None
    return status.total, min(status.available, status.available_commit)


def macos_available_bytes() -> int | None:
    """Free and inactive pages."""
    try:
        text = subprocess.run(["/usr/bin/vm_stat"], capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    page = re.search(r"page size of (\d+) bytes", text)
    pages = re.findall(r"^Pages (?:free|inactive|speculative):\s+(\d+)\.", text, re.MULTILINE)
    return int(page[1]) * sum(map(int, pages)) if page and pages else None
