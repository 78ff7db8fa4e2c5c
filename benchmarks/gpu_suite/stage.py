"""A stage's process: python -m benchmarks.gpu_suite.stage NAME [--dry-run] [--limit SECONDS]"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import logging
import math
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ..interpreter import prepare_interpreter
from .processes import end_with_parent
from .stages import STAGES

ERROR_LENGTH = 500


class Skipped(Exception):
    """A stage has nothing to do here; says why."""


@dataclass(frozen=True)
class Context:
    """What a stage is told: whether it is a dry run, and by when it is killed."""

    dry_run: bool
    end: float

    @property
    def device(self) -> torch.device:
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
    """Tells a figure at once; numbers that JSON does not have go as their names."""
    print(json.dumps(_finite(figure), allow_nan=False), flush=True)


def emit_swept(figures: Iterable[dict[str, Any]]) -> None:
    """Tells the figures of a problem's settings. Raises RuntimeError where none of them ran."""
    ran, last = False, {}
    for last in figures:
        emit(**last)
        ran = ran or "us" in last
    if not ran:
        raise RuntimeError(f"no setting of {last.get('kernel')} ran: {last.get('error')}")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


def facts(device: torch.device) -> dict[str, Any]:
    """Of the device and the software."""
    cuda = device.type == "cuda"
    try:
        triton = str(importlib.import_module("triton").__version__)
    except ImportError:
        triton = "none"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"CPU ({platform.machine()})",
        "capability": ".".join(map(str, torch.cuda.get_device_capability(device))) if cuda else "",
        "torch": torch.__version__,
        "triton": triton,
        "python": platform.python_version(),
    }


def main(arguments: list[str] | None = None) -> int:
    """Runs one stage; 1 where it fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=[stage.name for stage in STAGES])
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--limit", type=float, default=600.0)
    options = parser.parse_args(arguments)
    end_with_parent()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    if os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton"):
        prepare_interpreter()
    context = Context(options.dry_run, time.monotonic() + options.limit)
    try:
        emit(stage_facts=facts(context.device))
        importlib.import_module(f"{__package__}.stage_{options.name}").run(context)
    except Skipped as skipped:
        emit(stage_skipped=str(skipped))
    except Exception as error:  # whatever a stage raises is its result
        traceback.print_exc()
        emit(stage_error=f"{type(error).__name__}: {error}"[:ERROR_LENGTH])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
