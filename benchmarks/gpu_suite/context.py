"""The input of a stage, and how it reports figures."""

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
    """The reason why a stage cannot run here."""


@dataclass(frozen=True)
class Context:
    """The input of a stage; at `end`, a `time.monotonic()`, which all processes share, it is killed."""

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
        """Seconds until `end`."""
        return self.end - time.monotonic()


def emit(**figure: Any) -> None:
    """Prints a figure as a JSON line; infinite values and NaN become their names."""
    print(json.dumps(finite(figure), allow_nan=False), flush=True)


def emit_sweeps(sweeps: Iterable[Iterable[dict[str, Any]]]) -> None:
    """Emits the figures of every problem. Raises RuntimeError at the end if no setting of some problem ran."""
    failed: list[str] = []
    for sweep in sweeps:
        ran, last = False, {}
        for last in sweep:
            emit(**last)
            ran = ran or "us" in last
        failed += [] if ran else [f"{last.get('kernel')}: {last.get('error')}"]
    if failed:
        raise RuntimeError(f"of {len(failed)} problems no setting ran, of the first {failed[0]}")


def require_triton(without: str = "there are no kernels") -> None:
    """Raises Skipped if triton is not installed."""
    if importlib.util.find_spec("triton") is None:
        raise Skipped(f"triton is not installed: {without}")


def finite(value: Any) -> Any:
    """The value with infinities and NaN, which JSON lacks, as their names."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    return [finite(each) for each in value] if isinstance(value, list | tuple) else value
