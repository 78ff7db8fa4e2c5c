"""What a run leaves for the next one of the same shape, so that the second picture has no warm-up."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from ..device import free_memory
from ..model.run_kernels import RunKernels
from .cuda_graph import CapturedSteps, CaptureLog, Steps
from .request import Request
from .settings import DecodeSettings
from .window import Window


@dataclass(frozen=True)
class RunShape:
    """All that a captured step holds as numbers: runs that are equal in it can use the same graphs."""

    grid_h: int
    grid_w: int
    pictures: int
    settings: DecodeSettings
    kernels: RunKernels

    @staticmethod
    def of(request: Request, kernels: RunKernels) -> RunShape:
        settings = replace(request.settings, seed=0)
        return RunShape(request.grid_h, request.grid_w, len(request.prompts), settings, kernels)


@dataclass(frozen=True)
class Kept:
    """A window with its cache and buffers, and the steps that move it."""

    shape: RunShape
    window: Window
    steps: Steps

    @property
    def nbytes(self) -> int:
        return self.window.nbytes

    def serves(self, shape: RunShape, length: int) -> bool:
        """Whether a run of this shape that needs a cache of `length` positions can use it."""
        return self.shape == shape and self.window.cache.length >= length


class KeptRuns:
    """Of a model: what its last run left, and what its runs learnt of capturing.

    A run takes what is kept and gives it back at its end, so a second run beside it makes its own.
    """

    def __init__(self) -> None:
        self.log = CaptureLog()
        self._kept: Kept | None = None
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes that are held on the device between runs."""
        kept = self._kept
        return 0 if kept is None else kept.nbytes

    def take(self, shape: RunShape, length: int) -> Kept | None:
        """What an earlier run left, if it serves this one; otherwise it is freed."""
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is None or kept.serves(shape, length):
            return kept
        del kept
        free_memory()
        return None

    def keep(self, kept: Kept) -> None:
        """Keeps a run's window for the next, if it holds graphs: without any there is nothing to gain."""
        if isinstance(kept.steps, CapturedSteps) and kept.steps.graphs:
            with self._lock:
                self._kept = kept

    def free(self) -> int:
        """Frees what is kept; returns its bytes."""
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is None:
            return 0
        freed = kept.nbytes
        del kept
        free_memory()
        return freed
