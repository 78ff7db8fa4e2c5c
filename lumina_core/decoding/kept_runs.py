"""What a run leaves for the next one of the same shape, so that the second picture has no warm-up."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..device import free_memory
from ..lora.applied import AppliedLora, in_use
from ..model.run_kernels import RunKernels
from ..model.transformer import Transformer
from ..model.wear import branches_nbytes, wear
from .cuda_graph import CapturedSteps, CaptureLog, Steps
from .request import Request
from .settings import DecodeSettings
from .window import Window


@dataclass(frozen=True)
class RunShape:
    """All that a captured step holds as numbers: runs that are equal in it can use the same graphs.

    `loras` are those of the transformer, whose branches a graph reads.
    """

    grid_h: int
    grid_w: int
    pictures: int
    settings: DecodeSettings
    loras: tuple[AppliedLora, ...] = ()

    @staticmethod
    def of(request: Request, loras: Sequence[AppliedLora] = ()) -> RunShape:
        settings = replace(request.settings, seed=0)
        return RunShape(request.grid_h, request.grid_w, len(request.prompts), settings, in_use(loras))


@dataclass(frozen=True)
class Kept:
    """A window with its cache and buffers, and the steps that move it."""

    shape: RunShape
    window: Window
    steps: Steps

    @property
    def nbytes(self) -> int:
        return self.window.nbytes + branches_nbytes(self.window.transformer)

    def serves(self, shape: RunShape, kernels: RunKernels, length: int) -> bool:
        """Whether a run of this shape with these kernels that needs a cache of `length` positions can use it."""
        window = self.window
        return self.shape == shape and window.kernels == kernels and window.cache.length >= length


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

    def prepare(self, request: Request, loras: Sequence[AppliedLora] = ()) -> int:
        """Frees what is kept unless it has the shape of this request; returns the bytes that are held for it."""
        kept = self._kept
        if kept is not None and kept.shape == RunShape.of(request, loras):
            return kept.nbytes
        self.free()
        return 0

    def wear(self, transformer: Transformer, loras: Sequence[AppliedLora]) -> Transformer:
        """The model's transformer with LoRAs: the one of the last run where it had the same; see `model.wear`."""
        kept, used = self._kept, in_use(loras)
        if used and kept is not None and kept.shape.loras == used:
            return kept.window.transformer
        if used:
            self.free()  # makes room for the branches: what is kept has others
        return wear(transformer, used)

    def take(self, shape: RunShape, kernels: RunKernels, length: int) -> Kept | None:
        """What an earlier run left, if it serves this one; otherwise it is freed."""
        kept = self._remove()
        if kept is None or kept.serves(shape, kernels, length):
            return kept
        kept.steps.free()
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
        kept = self._remove()
        if kept is None:
            return 0
        freed = kept.nbytes
        kept.steps.free()
        del kept
        free_memory()
        return freed

    def _remove(self) -> Kept | None:
        with self._lock:
            kept, self._kept = self._kept, None
        return kept
