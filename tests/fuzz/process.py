"""One command in this process: its time limited, its output and log taken, its memory measured."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from lumina_core.cli.main import main

from .place import Arguments

# Seconds of computing, and of waiting for what may never come.
LIMIT_SECONDS, LIMIT_WAITING = 20.0, 60.0


class TooSlow(BaseException):
    """Raised in the command when its time is over; no `except Exception` stops it."""


def call(arguments: Arguments) -> tuple[int | None, str]:
    """The exit code of a command, or None and the traceback of what it raised."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise TooSlow("more than the limit")

    limits = ((signal.SIGPROF, signal.ITIMER_PROF, LIMIT_SECONDS), (signal.SIGALRM, signal.ITIMER_REAL, LIMIT_WAITING))
    before = [signal.signal(number, stop) for number, _, _ in limits]
    for _, timer, seconds in limits:
        signal.setitimer(timer, seconds)
    try:
        return main(arguments), ""
    except SystemExit as error:
        return (error.code if isinstance(error.code, int) else 1), ""
    except BaseException:
        return None, traceback.format_exc()
    finally:
        for (number, timer, _), handler in zip(limits, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def resident_bytes(reset: bool = False) -> int:
    """The most memory that the process has held; since now where `reset`. 0 where the system does not say."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


class Log(logging.Handler):
    """What the engine logs, from INFO up."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        logger = logging.getLogger("lumina_core")
        level = logger.level
        logger.addHandler(self)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.setLevel(level)
            logger.removeHandler(self)


@contextlib.contextmanager
def redirected(out: Any, err: Any, encoding: str) -> Iterator[None]:
    """Takes stdout and stderr of the process, libraries in C included."""
    kept = [os.dup(1), os.dup(2)]
    streams = sys.stdout, sys.stderr
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding, write_through=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), encoding, "backslashreplace", write_through=True)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = streams
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)


@contextlib.contextmanager
def temporary_folder(folder: Path) -> Iterator[None]:
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
