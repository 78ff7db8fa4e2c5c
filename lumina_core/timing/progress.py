"""How far something is and how long it still takes, a few times a second."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from types import TracebackType

from ..kernels.warm_up import told_to
from .amounts import Amounts, RecentRate, run_text, time_left
from .log_bar import LogBar

# Between two texts.
TEXT_SECONDS = 0.5

Say = Callable[[str], object]


class Progress:
    """The progress of one thing, as a text and a bar.

    `show` is called with the text, `say` once with each kind of warm-up, as a line of its own; `check` before each
    piece of a warm-up, and an exception that it raises ends the work. As a context manager it hears of warm-ups, closes
    the bar, and says where an exception stopped the work. What ends within TEXT_SECONDS shows nothing without `finish`.
    """

    def __init__(
        self,
        amounts: Amounts,
        title: str = "",
        *,
        bar: LogBar | None = None,
        show: Say | None = None,
        say: Say | None = None,
        check: Callable[[], object] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.amounts, self.done = amounts, 0.0
        self._title, self._bar, self._show, self._say = title, bar, show, say
        self._check, self._clock = check, clock
        self._rate, self._said, self._shown = RecentRate(), set[str](), False
        self._started = clock()
        self._next = self._started + TEXT_SECONDS
        self._warm_up_since: float | None = None
        self._warm_up = 0.0
        self._exits = contextlib.ExitStack()

    def update(self, done: float | None = None, warm_up_seconds: float | None = None) -> None:
        """`done` of all; one more where it is not given. `warm_up_seconds` of the time so far went into warming up.

        Where they are not given, a warm-up lasts from when it is told of to the next update.
        """
        first = not self.done
        self.done = self.done + 1 if done is None else done
        now = self._clock()
        if self._warm_up_since is not None:
            self._warm_up, self._warm_up_since = self._warm_up + now - self._warm_up_since, None
        if now >= self._next or (first and self.done):
            self._tick(now, self._warm_up if warm_up_seconds is None else warm_up_seconds)

    def _tick(self, now: float, warm_up_seconds: float) -> None:
        """The rate starts with the first of the work that is done; the text shows when it is time."""
        if self.done:
            self._rate.tick(self.done, now - warm_up_seconds)
        if now >= self._next:
            self._next = now + TEXT_SECONDS
            self._tell(self.text())

    def text(self) -> str:
        """How far it is, and how fast and for how long, as soon as that is known."""
        parts = [self.amounts.share(self.done)]
        if (rate := self._rate.per_second) is not None and self.done < self.amounts.total:
            parts += [self.amounts.rate(rate), f"{time_left((self.amounts.total - self.done) / rate)} left"]
        return self._titled(", ".join(parts))

    def warming_up(self, what: str) -> None:
        """A warm-up begins. Once there is a rate it is not shown: then it is short, and the rate leaves it out."""
        if self._check is not None:
            self._check()
        now = self._clock()
        self._warm_up_since = now if self._warm_up_since is None else self._warm_up_since
        if what in self._said or self._rate.per_second is not None:
            return
        self._said.add(what)
        text = f"warming up: {what}"
        if self._say is not None:
            self._say(text)
        if self._show is not None:
            self._show(text)
        self._shown, self._next = True, now

    def finish(self, seconds: float | None = None, warm_up_seconds: float | None = None) -> None:
        """Shows the last line, and ends the bar. The seconds are those since the start where they are not given."""
        seconds = self._clock() - self._started if seconds is None else seconds
        warm_up_seconds = self._warm_up if warm_up_seconds is None else warm_up_seconds
        self.done = self.amounts.total
        self._end(self._titled(run_text(self.amounts, seconds, warm_up_seconds)))

    def __enter__(self) -> Progress:
        self._exits.enter_context(told_to(self.warming_up))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exits.close()
        if self._shown and kind is None:
            self.finish()
        elif self._shown:
            self._end(self._titled(f"stopped after {self.amounts.share(self.done)}"))

    def _end(self, text: str) -> None:
        self._tell(text, last=True)
        if self._bar is not None:
            self._bar.close()
        self._shown = False

    def _tell(self, text: str, last: bool = False) -> None:
        self._shown = True
        if self._bar is not None:
            self._bar.draw(self.done, text, last)
        if self._show is not None:
            self._show(text)

    def _titled(self, text: str) -> str:
        return f"{self._title}: {text}" if self._title else text
