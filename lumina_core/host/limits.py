"""Limits of this process by its user (`ulimit -v`, `ulimit -d`), and the check that PyTorch has room within them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import OutOfMemory

PROC = Path("/proc")
# Address space of the libraries that a command imports, measured with a PyTorch for CPUs: 640 MB.
IMPORT_BYTES = 650 * 2**20
# Address space beyond the tensors of a run: code that oneDNN generates and its scratch memory, and for each thread a
# stack and an arena of malloc. Where that is refused, oneDNN and OpenMP end the process instead of raising an error.
LIBRARY_BYTES = 128 * 2**20
THREAD_BYTES = (8 + 64) * 2**20
# Arenas of further threads are shared.
MOST_THREADS = 8


@dataclass(frozen=True)
class Limit:
    """A limit of `most` bytes, by its `name` for messages, of which `used` count against it now."""

    name: str
    most: int
    used: int = 0

    @property
    def left(self) -> int:
        return max(0, self.most - self.used)


def process_limits(proc: Path = PROC) -> Iterator[Limit]:
    """The limits on address space and data that this process has; Linux only."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for name, kind, field in (
        ("address space (ulimit -v)", resource.RLIMIT_AS, "VmSize"),
        ("data (ulimit -d)", resource.RLIMIT_DATA, "VmData"),
    ):
        most, used = resource.getrlimit(kind)[0], proc_bytes("self/status", field, proc)
        if most != resource.RLIM_INFINITY and used is not None:
            yield Limit(name, most, used)


def reserved_bytes() -> int:
    """Address space that libraries and threads take beyond the tensors of a run."""
    return LIBRARY_BYTES + THREAD_BYTES * min(MOST_THREADS, os.cpu_count() or 1)


def check_address_space(more: int = 0, proc: Path = PROC) -> None:
    """Raises OutOfMemory where a limit of this process leaves too little for libraries, threads and `more` bytes."""
    expected = reserved_bytes() + more
    for limit in process_limits(proc):
        if limit.left < expected:
            raise OutOfMemory(
                f"too little memory: this process may take {gigabytes(limit.most)} of {limit.name} and has "
                f"{gigabytes(limit.left)} left; expected {gigabytes(expected)} for PyTorch and its threads: raise the "
                "limit"
            )


def proc_bytes(file: str, name: str, proc: Path = PROC) -> int | None:
    """A number of bytes in a file of Linux's /proc, or None."""
    try:
        found = re.search(rf"^{name}:\s*(\d+) kB", (proc / file).read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def gigabytes(count: float) -> str:
    """Bytes for reading: GB from 0.1 GB on, else MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
