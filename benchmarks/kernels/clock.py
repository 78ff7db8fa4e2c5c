"""Times calls on a device, without the host's work."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from . import Figure

Call = Callable[[], object]
# Seconds and number of calls that are captured together at most; replays that are timed together; measurements.
SECONDS, MOST_LAUNCHES, REPLAYS, MEASUREMENTS = 2e-3, 64, 4, 3
# Size of all inputs in multiples of the L2, and in bytes at most, beyond two copies.
L2_TIMES, MOST_BYTES = 4, 2**31
ERROR_LENGTH = 200


def first_line(error: BaseException) -> str:
    """An error's type and the beginning of its message."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:ERROR_LENGTH]


def measured(figure: Figure, measure: Callable[[], Figure]) -> Figure:
    """The figure with its measurement, or with the error, since a setting may need more than a device has."""
    try:
        return {**figure, **measure()}
    except Exception as error:  # of the compiler, the driver or torch
        return {**figure, "error": first_line(error)}


def _repeat(run: Call) -> None:
    for _ in range(REPLAYS):
        run()


@dataclass(frozen=True)
class Clock:
    """Times calls on a device; `bandwidth` is the bytes a second of copying."""

    device: torch.device
    bandwidth: float

    def copies(self, nbytes: int) -> int:
        """How many inputs of `nbytes` exceed the L2, at least two; one on a CPU."""
        if self.device.type != "cuda":
            return 1
        wanted = -(-L2_TIMES * torch.cuda.get_device_properties(self.device).L2_cache_size // max(1, nbytes))
        return max(2, min(wanted, MOST_BYTES // max(1, nbytes)))

    def seconds(self, calls: Sequence[Call]) -> float:
        """The time of one of the calls, which run in turn; the least of several measurements."""
        return self._captured(calls) if self.device.type == "cuda" else self._plain(calls)

    def share(self, nbytes: int, seconds: float) -> float:
        """The share of the bandwidth that moving `nbytes` in this time reaches."""
        return nbytes / seconds / self.bandwidth

    def _plain(self, calls: Sequence[Call]) -> float:
        start = time.perf_counter()
        for call in calls:
            call()
        return (time.perf_counter() - start) / len(calls)

    def _captured(self, calls: Sequence[Call]) -> float:
        """Times replays of a CUDA graph of many calls, on the stream on which they first ran."""
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            for call in calls:
                call()
            once = self._elapsed(lambda: [call() for call in calls]) / len(calls)
            launches = max(len(calls), min(MOST_LAUNCHES, int(SECONDS / once)))
            graph = torch.cuda.CUDAGraph()
            # Not `torch.cuda.graph`, which collects garbage and empties the memory cache each time.
            graph.capture_begin()
            try:
                for call in itertools.islice(itertools.cycle(calls), launches):
                    call()
            except BaseException:
                with contextlib.suppress(RuntimeError):  # it must not hide the first error
                    graph.capture_end()
                raise
            graph.capture_end()
            graph.replay()
            # Several replays at a time: starting the first takes the host longer than its kernels take.
            return min(self._elapsed(lambda: _repeat(graph.replay)) for _ in range(MEASUREMENTS)) / (launches * REPLAYS)

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.device)

    def _elapsed(self, run: Call) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000
