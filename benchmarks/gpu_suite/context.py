"""What a stage is told, and how it tells what it found."""

from __future__ import annotations

import importlib.util
import json
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Skipped(Exception):
    """A stage has nothing to do here; says why."""


@dataclass(frozen=True)
class Context:
    """What a stage is told: whether it is a dry run, and at what `time.monotonic()`, which all processes share, it is
    killed.
    """

    dry_run: bool
    end: float

    @property
    def device(self) -> torch.device:
        import torch

        return torch.device("cpu" if self.dry_run else "cuda")

    @property
    def model(self) -> str:
        """The synthetic model whose sizes are measured."""
        return "tiny" if self.dry_run else "7b"

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.end - time.monotonic()


def emit(**figure: Any) -> None:
    """Tells a figure at once; values that JSON does not have become their names."""
    print(json.dumps(finite(figure), allow_nan=False), flush=True)


def emit_sweeps(sweeps: Iterable[Iterable[dict[str, Any]]]) -> None:
    """Tells the figures of several problems' settings. Raises RuntimeError, at the end, if none of a problem's ran."""
    wrong: list[str] = []
    for sweep in sweeps:
        ran, last = False, {}
        for last in sweep:
            emit(**last)
            ran = ran or "us" in last
        wrong += [] if ran else [f"{last.get('kernel')}: {last.get('error')}"]
    if wrong:
        raise RuntimeError(f"of {len(wrong)} problems no setting ran, of the first {wrong[0]}")


def require_triton(without: str = "there are no kernels") -> None:
    """Raises Skipped where triton is not installed."""
    if importlib.util.find_spec("triton") is None:
        raise Skipped(f"triton is not installed: {without}")


def finite(value: Any) -> Any:
    """Values as JSON has them: infinite ones and NaN become their names."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    return [finite(each) for each in value] if isinstance(value, list | tuple) else value
