"""`encode`: a picture to a JSON of tokens."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from ..checkpoint.find import DEMO, open_checkpoint
from ..checkpoint.output_files import OutputFiles
from ..device import choose_device
from ..movqgan.codec import encode_picture
from ..pictures.images import center_crop, load_picture, to_pixels
from ..pictures.sizes import UNIT_PIXELS, SizeLimits, check_size
from ..pipeline import load_codec
from .common import add_model_arguments
from .files import check_output

HELP = "turn a picture into tokens"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All options of the command."""
    parser.add_argument("image", type=Path, help="picture")
    add_model_arguments(parser, checkpoint=DEMO)
    parser.add_argument("--width", type=int, help="crop to this width (default: the picture's, down to 32 pixels)")
    parser.add_argument("--height", type=int, help="crop to this height (default: the picture's, down to 32 pixels)")
    parser.add_argument("--tokens-out", type=Path, required=True, help="JSON of the picture's tokens")


@torch.inference_mode()
def run(options: argparse.Namespace, input_is_good: Callable[[], None]) -> None:
    """Reads, crops, encodes and writes."""
    check_output(options.tokens_out)
    device, picture = choose_device(options.device), load_picture(options.image)
    width = _whole_units(picture.width) if options.width is None else options.width
    height = _whole_units(picture.height) if options.height is None else options.height
    checkpoint = open_checkpoint(options.checkpoint)
    check_size(width, height, SizeLimits(max_side=checkpoint.vocabulary.max_side))
    movqgan = load_codec(checkpoint, options.movqgan, device)
    input_is_good()
    codes = encode_picture(movqgan, to_pixels(center_crop(picture, (width, height))).to(device)).cpu()
    with OutputFiles() as files:
        files.write_json({"tokens": [checkpoint.vocabulary.picture_tokens(codes[0])]}, options.tokens_out)


def _whole_units(side: int) -> int:
    return max(UNIT_PIXELS, side - side % UNIT_PIXELS)
