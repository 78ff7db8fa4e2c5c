"""The command line that the trainings of the demo share."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

import torch

from lumina_core.cli.common import device_argument
from lumina_core.device import choose_device
from lumina_core.errors import LuminaError


def add_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    """Adds what all trainings take; `out` says what the folder is for."""
    parser.add_argument("--out", type=Path, required=True, help=out)
    parser.add_argument("--seconds", type=float, help="train for this long in all, instead of a number of steps")
    parser.add_argument("--resume", action="store_true", help="go on from the state in the folder")
    parser.add_argument("--seed", type=int, default=0)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=device_argument, default=default, help="such as cpu or cuda")


def run_training(parser: argparse.ArgumentParser, device: str, train: Callable[[torch.device], None]) -> None:
    """Trains with its log on stderr. Bad input ends the program with one line there and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        train(choose_device(device))
    except (LuminaError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
