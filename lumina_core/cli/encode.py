"""`encode`: converts a picture to a JSON file of tokens."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from ..checkpoint.find import open_checkpoint
from ..checkpoint.locate import DEMO
from ..device import choose_device
from ..files.output_files import OutputFiles, check_output
from ..movqgan.codec import encode_picture
from ..pictures.images import center_crop, load_picture, to_pixels
from ..pictures.levels import warn_if_flat
from ..pictures.sizes import UNIT_PIXELS, SizeLimits, check_size
from ..pipeline import load_codec
from .common import add_model_arguments, keep_inputs

HELP = "convert a picture to tokens"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, help="picture file")
    add_model_arguments(parser, checkpoint=DEMO)
    parser.add_argument("--width", type=int, help="crop to this width (default: its own, rounded down to 32)")
    parser.add_argument("--height", type=int, help="crop to this height (default: its own, rounded down to 32)")
    parser.add_argument("--tokens-out", type=Path, required=True, help="JSON file for the tokens")


@torch.inference_mode()
def run(options: argparse.Namespace, on_input_checked: Callable[[], None]) -> None:
    """Reads, crops and encodes the picture and writes the tokens."""
    check_output(options.tokens_out)
    keep_inputs(options, [options.tokens_out])
    options.signals.watch([options.tokens_out])
    device, picture = choose_device(options.device), load_picture(options.image)
    width = _rounded_down(picture.width) if options.width is None else options.width
    height = _rounded_down(picture.height) if options.height is None else options.height
    checkpoint = open_checkpoint(options.checkpoint)
    keep_inputs(options, [options.tokens_out], checkpoint)
    check_size(width, height, SizeLimits(max_side=checkpoint.vocabulary.max_side))
    movqgan = load_codec(checkpoint, options.movqgan, device)
    on_input_checked()
    picture = center_crop(picture, (width, height))
    warn_if_flat(picture, "the picture")
    codes = encode_picture(movqgan, to_pixels(picture).to(device)).cpu()
    with OutputFiles() as files:
        files.write_json({"tokens": [checkpoint.vocabulary.picture_tokens(codes[0])]}, options.tokens_out)
        options.signals.check()


def _rounded_down(side: int) -> int:
    return max(UNIT_PIXELS, side - side % UNIT_PIXELS)
