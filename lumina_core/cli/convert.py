"""`convert`: a checkpoint into one file that needs nothing beside it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from ..convert import CONVERT_WEIGHTS, plan_conversion
from ..device import choose_device
from .common import add_model_arguments
from .files import check_outputs

HELP = "make one file of a checkpoint, with smaller weights if asked for"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All options of the command."""
    add_model_arguments(parser)
    parser.add_argument("--weights", choices=CONVERT_WEIGHTS, required=True, help="form of the blocks' linear weights")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to make")


@torch.inference_mode()
def run(options: argparse.Namespace, input_is_good: Callable[[], None]) -> None:
    """Checks everything, then reads, converts and writes tensor by tensor."""
    check_outputs([options.out])
    device = choose_device(options.device)
    conversion = plan_conversion(options.checkpoint, options.weights, options.movqgan, device)
    conversion.check_place(options.out)
    input_is_good()
    with tqdm(total=len(conversion), unit="tensor", disable=None, file=sys.stderr) as bar:
        conversion.write(options.out, bar.update)
    print(f"{options.out}: {conversion.layout.size / 2**20:,.1f} MiB, {options.weights}")
