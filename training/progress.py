"""How far a training has come, and its state on disk, from which it can be resumed."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lumina_core.errors import InputError

SAVE_EVERY_S = 60.0


class Progress:
    """Counts steps and time. A training ends after `steps`, or after `seconds` where they are given.

    `share` is how far it has come, 0 to 1; time before a resumption counts. Raises InputError for no step, and for no
    finite time.
    """

    def __init__(self, steps: int, seconds: float | None = None):
        if steps < 1 or (seconds is not None and not 0 < seconds < math.inf):
            raise InputError(
                f"{steps} steps and {seconds} seconds of training; expected a step or more, and a finite time"
            )
        self.steps, self.seconds = steps, seconds
        self.step, self._before, self._start = 0, 0.0, time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds of training so far."""
        return self._before + time.monotonic() - self._start

    @property
    def share(self) -> float:
        return min(1.0, self.step / self.steps if self.seconds is None else self.elapsed / self.seconds)

    @property
    def done(self) -> bool:
        return self.share >= 1.0

    def advance(self) -> None:
        """Counts a step."""
        self.step += 1

    def set_rate(self, optimizer: torch.optim.Optimizer, peak: float, warm_up: int, fall: float) -> None:
        """Sets the rate: linear warm-up over steps, the peak, and over the last share `fall` a cosine down to 0.3 %."""
        fallen = max(0.0, (self.share - (1 - fall)) / fall)
        rate = peak * min(1.0, (self.step + 1) / warm_up) * (0.003 + 0.997 * 0.5 * (1 + math.cos(math.pi * fallen)))
        for group in optimizer.param_groups:
            group["lr"] = rate

    def state(self) -> dict[str, float]:
        return {"step": self.step, "elapsed": self.elapsed}

    def load(self, state: dict[str, float]) -> None:
        self.step, self._before, self._start = int(state["step"]), state["elapsed"], time.monotonic()


class TrainingState:
    """All that a training needs to go on, in one file."""

    def __init__(
        self,
        path: Path,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        rng: np.random.Generator,
        progress: Progress,
    ):
        self.path, self.model, self.optimizers, self.rng, self.progress = path, model, optimizers, rng, progress
        self._saved = time.monotonic()

    def save_at_times(self) -> None:
        """Saves where the last time was a minute ago."""
        if time.monotonic() - self._saved >= SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Writes the file; it is whole at any time."""
        values = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "rng": self.rng.bit_generator.state,
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all(),
            "progress": self.progress.state(),
        }
        unfinished = self.path.with_suffix(".part")
        torch.save(values, unfinished)
        os.replace(unfinished, self.path)
        self._saved = time.monotonic()

    def load(self) -> None:
        """Reads the file, where there is one."""
        if not self.path.exists():
            return
        values = torch.load(self.path, map_location="cpu", weights_only=True)
        self.model.load_state_dict(values["model"])
        for optimizer, state in zip(self.optimizers, values["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.rng.bit_generator.state = values["rng"]
        torch.set_rng_state(values["torch_rng"])
        if len(values["cuda_rng"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(values["cuda_rng"])
        self.progress.load(values["progress"])
