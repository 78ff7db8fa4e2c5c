"""Signals that end a command: one line on stderr, exit code 128 + number, nothing half done. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
# A terminal that closes sends several signals at once.
REPEAT_SECONDS = 1.0
NOTHING_WRITTEN = "cancelled; nothing was written"


class Cancelled(KeyboardInterrupt):
    """A signal asks the command to end. The text, if any, says what is left of the work."""


class Signals:
    """What SIGINT, SIGTERM and SIGHUP do while a command runs. A context manager that restores the earlier handlers.

    A signal raises Cancelled in the main thread. Where something swallows that (a callback of the garbage collector),
    `check` raises it again. A second signal soon after does not disturb what the first one ends. While `held`, and
    once the command is ending, signals are only recorded. Ignored signals, as under nohup, stay ignored. Outside the
    main thread nothing is changed. With `own_process`, which ends with the command, nothing is restored.
    """

    def __init__(self, own_process: bool = False) -> None:
        self.received: int | None = None
        self._own_process = own_process
        self._is_held = True  # until the block begins
        self._raised_at = -REPEAT_SECONDS
        self._earlier: dict[int, Any] = {}
        self._unraisable: Any = None
        self._stamps: dict[str, tuple[int, ...] | None] = {}

    def __enter__(self) -> Signals:
        self._unraisable, sys.unraisablehook = sys.unraisablehook, self._on_unraisable
        if threading.current_thread() is threading.main_thread():
            for number in _numbers():
                handler = signal.getsignal(number)
                if handler not in (None, signal.SIG_IGN):
                    self._earlier[number] = handler
                    signal.signal(number, self._on_signal)
        self._is_held = False
        return self

    def __exit__(self, *_: object) -> None:
        self._is_held = True
        if not self._own_process:
            sys.unraisablehook = self._unraisable
            for number, handler in self._earlier.items():
                signal.signal(number, handler)

    @property
    def exit_code(self) -> int:
        """128 + the number of the first signal; of Ctrl-C where none came."""
        return 128 + (self.received or signal.SIGINT)

    def check(self) -> None:
        """Raises Cancelled if a signal came and its exception was swallowed."""
        if self.received is not None and not self._is_held:
            raise Cancelled

    def ended(self, error: BaseException) -> bool:
        """Whether a signal is behind an error. A library may turn the exception of one into another."""
        return isinstance(error, KeyboardInterrupt) or self.received is not None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Signals are recorded within, and raise nothing: for what must not be left half done."""
        earlier, self._is_held = self._is_held, True
        try:
            yield
        finally:
            self._is_held = earlier

    def hold(self) -> None:
        """From here on signals are only recorded: the command is ending."""
        self._is_held = True

    def watch(self, outputs: Iterable[os.PathLike[str]]) -> None:
        """Notes the state of the files to be written, for `outcome`."""
        self._stamps.update({os.fspath(path): _stamp(os.fspath(path)) for path in outputs})

    def late(self, code: int, message: str = "") -> tuple[int, str]:
        """Exit code and message of a command that ends: those of a signal that came when its work was complete."""
        return (self.exit_code, self.outcome()) if code == 0 and self.received is not None else (code, message)

    def outcome(self) -> str:
        """What a cancelled command says, by what is on the disk."""
        written = [path for path, earlier in self._stamps.items() if _stamp(path) != earlier]
        return f"cancelled after {', '.join(written)} was written" if written else NOTHING_WRITTEN

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.received is None:
            self.received = number
        now = time.monotonic()
        if not self._is_held and now - self._raised_at >= REPEAT_SECONDS:
            self._raised_at = now
            raise Cancelled

    def _on_unraisable(self, problem: Any) -> None:
        if not isinstance(problem.exc_value, Cancelled):  # `check` raises it again
            self._unraisable(problem)


def say(message: str) -> None:
    """One line on stderr, if there is any."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(f"lumina_core: {message}", file=sys.stderr, flush=True)


def flush() -> None:
    """Writes what is printed, unless nobody reads it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()


def _numbers() -> list[int]:
    return [int(getattr(signal, name)) for name in NAMES if hasattr(signal, name)]


def _stamp(path: str) -> tuple[int, ...] | None:
    try:
        facts = os.stat(path)
    except (OSError, ValueError):
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns
