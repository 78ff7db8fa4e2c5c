"""A bar of tqdm on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

FORMAT = "{percentage:3.0f}%|{bar:20}| {desc}"
# Between two lines in a log that is no terminal.
LINE_SECONDS = 10.0


def is_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal; one that is None or closed is not."""
    try:
        return bool(stream.isatty())
    except (AttributeError, OSError, ValueError):
        return False


class LogBar:
    """On a terminal a line that changes; elsewhere a line every LINE_SECONDS and a last one.

    It is not shown before it is first drawn, and never where stderr is None, closed or broken.
    """

    def __init__(self, total: float, stays: bool = True, clock: Callable[[], float] = time.monotonic):
        self._total, self._stays, self._clock = total, stays, clock
        self._bar: Any = None
        self._next_line = self._clock() + LINE_SECONDS

    def draw(self, done: float, text: str, last: bool = False) -> None:
        """Shows `done` of all and a text."""
        with contextlib.suppress(AttributeError, OSError, ValueError):
            if is_terminal(sys.stderr):
                self._move(done, text)
            elif last or self._clock() >= self._next_line:
                self._next_line = self._clock() + LINE_SECONDS
                self._write_line(done, text)

    def say(self, text: str) -> None:
        """Prints a line of its own above the bar, on a terminal."""
        with contextlib.suppress(AttributeError, OSError, ValueError):
            if is_terminal(sys.stderr):
                tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Ends the line."""
        bar, self._bar = self._bar, None
        if bar is not None:
            with contextlib.suppress(OSError, ValueError):
                bar.close()

    def _write_line(self, done: float, text: str) -> None:
        plain = not (sys.stderr.encoding or "").lower().startswith("utf")
        line = tqdm.format_meter(done, self._total, 0, ascii=plain, prefix=text, bar_format=FORMAT)
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    def _move(self, done: float, text: str) -> None:
        if self._bar is None:
            options: dict[str, Any] = {"leave": self._stays, "bar_format": FORMAT, "dynamic_ncols": True}
            self._bar = tqdm(total=self._total, initial=done, desc=text, file=sys.stderr, **options)
            return
        self._bar.n = done
        self._bar.set_description_str(text)
