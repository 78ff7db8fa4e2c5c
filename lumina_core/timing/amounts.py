"""Amounts, durations and rates in words: "1,840 of 9,216 tokens, 45/s, 2 min 40 s left"."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from ..checkpoint.find import Checkpoint
from ..device import gigabytes
from ..model.load import loaded_bytes
from ..quant.weights import WeightsPlan

# A tick keeps this share of what the rate is based on: at two ticks a second, that of about the last ten seconds.
KEPT = 0.95
# Ticks that a rate is based on, at least: of a slow model each is a single forward.
LEAST_TICKS = 4
# Seconds of warm-up that are worth telling.
LEAST_WARM_UP = 0.05


class Amounts(Protocol):
    """What is counted, up to `total`, and how it is told."""

    @property
    def total(self) -> float:
        """All of it."""

    def share(self, done: float) -> str:
        """As "1,840 of 9,216 tokens"."""

    def whole(self) -> str:
        """As "9,216 tokens"."""

    def rate(self, per_second: float) -> str:
        """As "45/s"."""


@dataclass(frozen=True)
class Count:
    """Things that are counted one by one; `unit` is their plural."""

    total: float
    unit: str

    def share(self, done: float) -> str:
        return f"{done:,.0f} of {self.whole()}"

    def whole(self) -> str:
        return f"{self.total:,.0f} {self.unit}"

    def rate(self, per_second: float) -> str:
        return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.1f}/s"


@dataclass(frozen=True)
class Bytes:
    """Bytes, as GB or MB."""

    total: float

    def share(self, done: float) -> str:
        number, unit = gigabytes(done).split()
        return f"{number if self.whole().endswith(unit) else gigabytes(done)} of {self.whole()}"

    def whole(self) -> str:
        return gigabytes(self.total)

    def rate(self, per_second: float) -> str:
        return f"{gigabytes(per_second)}/s"


def duration(seconds: float) -> str:
    """As "2.3 s", "45 s", "2 min 40 s" or "1 h 5 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole, small, large = round(seconds), "s", "min"
    if whole >= 3600:
        whole, small, large = round(seconds / 60), "min", "h"
    high, low = divmod(whole, 60)
    return " ".join(f"{number} {unit}" for number, unit in ((high, large), (low, small)) if number)


def time_left(seconds: float) -> str:
    """As `duration`, in whole seconds, and in tens of them from a minute on."""
    if seconds <= 59:
        return f"{max(1, math.ceil(seconds))} s"
    return duration(10 * max(6, round(seconds / 10)))


def run_text(amounts: Amounts, seconds: float, warm_up_seconds: float = 0.0) -> str:
    """What took how long: "4,096 tokens in 2.3 s (1,780/s)". The rate leaves the warm-up out, and says so."""
    work = seconds - warm_up_seconds
    rate = amounts.rate(amounts.total / work) if work > 0 else ""
    text = f"{amounts.whole()} in {duration(seconds)}"
    if warm_up_seconds < LEAST_WARM_UP:
        return f"{text} ({rate})" if rate else text
    return f"{text}, {duration(warm_up_seconds)} of it warm-up" + (f" ({rate} without it)" if rate else "")


def loading(checkpoint: Checkpoint, plan: WeightsPlan) -> tuple[str, Bytes]:
    """What loading a checkpoint for weights as planned does, and the bytes that it reads."""
    quantised = plan.scheme is not None and checkpoint.scheme is None
    return f"quantising to {plan.name}" if quantised else "reading weights", Bytes(loaded_bytes(checkpoint))


class RecentRate:
    """The amount per second of about the last ten seconds, or of the last twenty ticks where they are slower."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None
        self._amount = self._seconds = 0.0
        self._ticks = 0

    def tick(self, done: float, seconds: float) -> None:
        """`done` of all after `seconds` of work; the first call starts the clock."""
        if self._last is not None:
            amount, passed = done - self._last[0], max(0.0, seconds - self._last[1])
            self._amount, self._seconds = KEPT * self._amount + amount, KEPT * self._seconds + passed
            self._ticks += 1
        self._last = done, seconds

    @property
    def per_second(self) -> float | None:
        """None while there is too little to tell."""
        known = self._ticks >= LEAST_TICKS and self._amount > 0 and self._seconds > 0
        return self._amount / self._seconds if known else None
