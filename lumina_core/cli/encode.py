"""`encode`: a picture to a JSON of tokens."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from ..checkpoint.find import DEMO
from ..checkpoint.output_files import OutputFiles
from ..movqgan.codec import encode_picture
from ..pictures.panels import UNIT_PIXELS, center_crop, grid_size, load_picture, to_pixels
from .common import add_model_arguments, choose_device, open_movqgan, open_setup
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
    setup = open_setup(options)
    setup.vocabulary.forced_tokens(*grid_size(width, height, setup.config.max_position_embeddings))
    movqgan = open_movqgan(setup, device)
    input_is_good()
    codes = encode_picture(movqgan, to_pixels(center_crop(picture, (width, height))).to(device)).cpu()
    with OutputFiles() as files:
        files.write_json({"tokens": [setup.vocabulary.picture_tokens(codes[0])]}, options.tokens_out)


def _whole_units(side: int) -> int:
    return max(UNIT_PIXELS, side - side % UNIT_PIXELS)
