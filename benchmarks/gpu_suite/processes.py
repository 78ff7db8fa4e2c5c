"""Runs a process with a time limit and ends it together with all that it started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

# Options of prctl (Linux): the signal to get when the parent ends, and to become the parent of orphaned descendants.
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
ROOT = Path(__file__).parents[2]
# Seconds that a pipe may stay open after its process, and that a killed process may take to end.
PATIENCE = 5.0


def adopt_orphans() -> None:
    """Makes this process the parent of orphaned descendants, so that it can end them; on Linux only."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent() -> None:
    """Lets this process be killed when its parent ends; on Linux only."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def run_limited(
    arguments: Sequence[str],
    limit: float,
    on_line: Callable[[str], None],
    log: IO[bytes],
    environment: Mapping[str, str],
) -> int | None:
    """Runs a command in the repository; returns the exit code, or None at the limit.

    Lines of stdout go to `on_line`, stderr to the log. All that it started has ended when this returns or raises.
    """
    ours = _children_of({os.getpid()})
    process = subprocess.Popen(
        arguments,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        env=dict(environment),
        start_new_session=True,
    )
    assert process.stdout is not None
    reader = threading.Thread(target=_read, args=(process.stdout, on_line), daemon=True)
    reader.start()
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end(process, ours)
        reader.join(PATIENCE)


def _read(stream: IO[bytes], on_line: Callable[[str], None]) -> None:
    for line in stream:
        on_line(line.decode(errors="replace").rstrip("\n"))


def _end(process: subprocess.Popen[bytes], ours: set[int]) -> None:
    """Kills the process and all that it started: its group, its descendants, and orphans adopted since.

    `ours` are the children that were there before.
    """
    if os.name != "posix":  # no groups, and no /proc: the process alone
        process.kill()
        process.wait(PATIENCE)
        return
    deadline = time.monotonic() + PATIENCE
    # Repeated, since a process may start another one meanwhile.
    while time.monotonic() < deadline:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        left = _with_descendants(_children_of({os.getpid()}) - ours) - {process.pid}
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
        for pid in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        if process.returncode is not None and not left:
            return


def _with_descendants(roots: set[int]) -> set[int]:
    found = fresh = roots
    while fresh:
        fresh = _children_of(fresh) - found
        found = found | fresh
    return found


def _children_of(parents: set[int]) -> set[int]:
    """Process ids, from /proc; none where there is no /proc."""
    return {pid for pid, parent in map(_parent, Path("/proc").glob("[0-9]*/stat")) if parent in parents}


def _parent(stat: Path) -> tuple[int, int]:
    """A process and its parent; zeros if it has ended."""
    try:
        pid, _, rest = stat.read_text(errors="replace").partition(" (")
        return int(pid), int(rest.rpartition(") ")[2].split()[1])
    except OSError:
        return 0, 0
