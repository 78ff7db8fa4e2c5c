"""`convert`: writes a checkpoint as one self-contained file."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from ..checkpoint.single_file import ROUNDINGS
from ..convert import CONVERT_WEIGHTS, plan_conversion
from ..device import choose_device
from ..files.output_files import check_output
from .common import add_model_arguments, progress_bar

HELP = "write a checkpoint as one file, with quantised weights if requested"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--weights", choices=CONVERT_WEIGHTS, required=True, help="dtype of the blocks' linear weights")
    parser.add_argument(
        "--rounding",
        choices=ROUNDINGS,
        help="how int4 weights are quantised: to the nearest code (the default), or with the zero of each group by hqq",
    )
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")


@torch.inference_mode()
def run(options: argparse.Namespace, on_input_checked: Callable[[], None]) -> None:
    """Checks all input, then reads, converts and writes one tensor at a time."""
    check_output(options.out)
    options.signals.watch([options.out])
    device = choose_device(options.device)
    conversion = plan_conversion(options.checkpoint, options.weights, options.movqgan, device, options.rounding)
    conversion.check_output(options.out)
    on_input_checked()
    with progress_bar(total=len(conversion), unit="tensors") as bar:

        def on_step() -> None:
            options.signals.check()
            bar.update()

        conversion.write(options.out, on_step)
    rounding = "" if options.rounding is None else f", rounding {options.rounding}"
    print(f"{options.out}: {conversion.layout.size / 2**20:,.1f} MiB, {options.weights}{rounding}")
