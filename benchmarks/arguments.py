"""The command line of the benchmarks that score pictures."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from lumina_core.decoding.settings import DECODERS
from lumina_core.device import DEVICES
from lumina_core.errors import LuminaError
from lumina_core.files.output_files import check_outputs, check_picture_suffix

from .whole_numbers import natural

DEMO_CFG = 1.25  # The guidance of the example workflows, which the demo hardly needs.


def add_scoring_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds where the pictures come from, how they are drawn, and the files to write."""
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--truth", action="store_true", help="score the rendered truth: checks the scorer itself")
    kind.add_argument("--reconstruct", action="store_true", help="score MoVQGAN reconstructions of the truth")
    parser.add_argument("--checkpoint", default="demo")
    parser.add_argument("--movqgan", help="MoVQGAN file, where it is not the checkpoint's own")
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.add_argument("--decoder", choices=DECODERS, default="gumbel")
    parser.add_argument("--window", type=int, default=32)
    parser.add_argument("--cfg", type=float, default=DEMO_CFG)
    parser.add_argument("--seed", type=natural, default=0, help="of the prompts and of the sampling")
    parser.add_argument("--json", type=Path, help="file for the scores")
    parser.add_argument("--sheet", type=Path, help="PNG of all pictures with their captions")


def check_files(options: argparse.Namespace) -> None:
    """Raises InputError for an output that cannot be written."""
    check_outputs([path for path in (options.json, options.sheet) if path is not None])
    if options.sheet is not None:
        check_picture_suffix(options.sheet)


def exit_code(name: str, run: Callable[[], object]) -> int:
    """Runs a benchmark: 0, or 2 with one line on stderr for bad input."""
    try:
        run()
    except (LuminaError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    return 0
