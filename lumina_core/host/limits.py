"""Limits of this process by its user (`ulimit -v`, `ulimit -d`), and the check that PyTorch has room within them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import OutOfMemory
from .refusals import is_out_of_memory

PROC = Path("/proc")
MIB = 2**20
# Beyond the tensors of a run: code that oneDNN generates and its scratch memory, and for each thread a stack and an
# arena of malloc. Where that is refused, oneDNN and OpenMP end the process instead of raising an error.
LIBRARY_BYTES, STACK_BYTES, ARENA_BYTES = 128 * MIB, 8 * MIB, 64 * MIB
# Arenas of further threads are shared.
MOST_THREADS = 8


@dataclass(frozen=True)
class Limit:
    """A limit of `most` bytes, by its `name` for messages, of which `used` count against it now.

    `imported` will count when PyTorch and the other libraries are imported, `reserved` when their threads run.
    """

    name: str
    most: int
    used: int
    imported: int = 0
    reserved: int = 0

    @property
    def left(self) -> int:
        return max(0, self.most - self.used)

    @property
    def room(self) -> int:
        """What is left for the tensors of a run."""
        return max(0, self.left - self.reserved)


def process_limits(proc: Path = PROC) -> Iterator[Limit]:
    """The limits on address space and data that this process has; Linux only."""
    try:
        import resource
    except ImportError:  # Windows
        return
    threads = min(MOST_THREADS, os.cpu_count() or 1)
    # What imports take was measured with a PyTorch for CPUs. Arenas are no data until they are used.
    for name, kind, field, imported, thread in (
        ("address space (ulimit -v)", resource.RLIMIT_AS, "VmSize", 650 * MIB, STACK_BYTES + ARENA_BYTES),
        ("data (ulimit -d)", resource.RLIMIT_DATA, "VmData", 230 * MIB, STACK_BYTES),
    ):
        most, used = resource.getrlimit(kind)[0], proc_bytes("self/status", field, proc)
        if most != resource.RLIM_INFINITY and used is not None:
            yield Limit(name, most, used, imported, LIBRARY_BYTES + threads * thread)


def check_process_limits(is_imported: bool, proc: Path = PROC) -> None:
    """Raises OutOfMemory where a limit of this process leaves PyTorch too little, which is imported or will be."""
    for limit in process_limits(proc):
        expected = limit.reserved + (0 if is_imported else limit.imported)
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
    except OSError as error:
        if is_out_of_memory(error):
            raise
        return None
    return int(found[1]) * 1024 if found else None


def gigabytes(count: float) -> str:
    """Bytes for reading: GB from 0.1 GB on, else MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
