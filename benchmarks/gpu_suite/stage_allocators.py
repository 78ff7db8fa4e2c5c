"""Captured steps under both of torch's allocators, in child processes: captures that work, and ones made to fail.

`probe` is the child by which a run decides whether to capture. The outcome of each child is a figure, since a capture
that fails may end its process.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from typing import Any

import torch

from lumina_core.decoding.capture_probe_process import CHILD

from .context import Context, emit
from .runner import how_ended

PROBE = "probe"
ALLOCATORS, KINDS = ("native", "cudaMallocAsync"), ("good", "failing", PROBE)
# For each child; they run at the same time.
CHILD_SECONDS, RESERVE = 25.0, 3.0
ERROR_LENGTH = 300
FINE = how_ended(0)


def run(context: Context) -> None:
    end = time.monotonic() + min(CHILD_SECONDS, context.left - RESERVE)
    started = [
        (allocator, kind, start_child(allocator, kind, context.dry_run))
        for allocator, kind in itertools.product(ALLOCATORS[:1] if context.dry_run else ALLOCATORS, KINDS)
    ]
    outcomes = {}
    for allocator, kind, process in started:
        outcomes[allocator, kind] = outcome_of(process, max(0.1, end - time.monotonic()))
        emit(allocator=allocator, kind=kind, **outcomes[allocator, kind])
    good, probe = outcomes[ALLOCATORS[0], KINDS[0]], outcomes[ALLOCATORS[0], PROBE]
    works = context.dry_run or probe.get("works")  # a dry run has no device
    if not (works and good["ended"] == FINE and good["captured"] and good["same"] and good["same_again"]):
        raise RuntimeError(f"a capture under the {ALLOCATORS[0]} allocator that should work did not; see the figures")


def start_child(allocator: str, kind: str, dry_run: bool) -> subprocess.Popen[str]:
    """A process with an allocator, which torch reads from the environment when it starts."""
    # The older name, which torch up to 2.11 knows.
    environment = {**os.environ, "PYTORCH_CUDA_ALLOC_CONF": f"backend:{allocator}"}
    dry = ["--dry-run"] if dry_run else []
    command = [sys.executable, "-m", f"{__package__}.allocator_child", kind, *dry]
    if kind == PROBE:
        command = [sys.executable, str(CHILD), "0", allocator, torch.__version__]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def outcome_of(process: subprocess.Popen[str], limit: float) -> dict[str, Any]:
    """The events that a child reported, and how it ended."""
    try:
        out, err = process.communicate(timeout=limit)
        ended = how_ended(process.returncode)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        ended = f"killed after {limit:.0f} s"
    sys.stderr.write(err)
    events: dict[str, Any] = {}
    for line in out.splitlines():
        with contextlib.suppress(ValueError):  # one that was cut short
            event = json.loads(line)
            events |= event if isinstance(event, dict) else {}
    error = "" if ended == FINE else (err.strip().splitlines() or [""])[-1][:ERROR_LENGTH]
    return {"ended": ended, "error": error, **events}
