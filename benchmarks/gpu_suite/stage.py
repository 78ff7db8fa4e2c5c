"""A stage's process: python -m benchmarks.gpu_suite.stage NAME [--dry-run] [--end TIME]"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import os
import platform
import sys
import time
import traceback
from typing import Any

import torch

from ..interpreter import prepare_interpreter
from .context import Context, Skipped, emit
from .processes import end_with_parent
from .stages import STAGES

ERROR_LENGTH = 500


def facts(device: torch.device) -> dict[str, Any]:
    """Names and versions of device and software."""
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
    """Runs one stage; returns 1 if it fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=[stage.name for stage in STAGES])
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--end", type=float, help="time.monotonic() when it is killed; in ten minutes by default")
    options = parser.parse_args(arguments)
    end_with_parent()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    context = Context(options.dry_run, options.end or time.monotonic() + 600)
    try:
        if os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton"):
            prepare_interpreter()
        emit(stage_facts=facts(context.device))
        importlib.import_module(f"{__package__}.stage_{options.name}").run(context)
    except Skipped as skipped:
        emit(stage_skipped=str(skipped))
    except Exception as error:  # any error of a stage is its result
        traceback.print_exc()
        emit(stage_error=f"{type(error).__name__}: {error}"[:ERROR_LENGTH])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
