"""`decode`: converts a JSON file of tokens to pictures."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

import torch

from ..checkpoint.find import open_checkpoint
from ..checkpoint.locate import DEMO
from ..device import choose_device
from ..errors import InputError
from ..files.output_files import OutputFiles, check_outputs, check_picture_suffix, numbered_paths
from ..movqgan.codec import decode_picture
from ..pictures.images import to_image
from ..pictures.sizes import CODE_PIXELS
from ..pipeline import load_codec
from ..tokens.token_files import parse_begun, read_token_lists
from ..tokens.vocabulary import BegunPicture
from .common import add_model_arguments, keep_inputs

HELP = "convert tokens to pictures"

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tokens", type=Path, help="JSON file of tokens, as written by generate and encode")
    add_model_arguments(parser, checkpoint=DEMO)
    parser.add_argument("--out", type=Path, required=True, help="picture file; several get _k before the suffix")


@torch.inference_mode()
def run(options: argparse.Namespace, on_input_checked: Callable[[], None]) -> None:
    """Reads the tokens, decodes all pictures, then writes them."""
    check_picture_suffix(options.out)
    device, lists = choose_device(options.device), read_token_lists(options.tokens)
    checkpoint = open_checkpoint(options.checkpoint)
    begun = parse_begun(lists, checkpoint.vocabulary, str(options.tokens))
    grids = [_complete_rows(picture, number) for number, picture in enumerate(begun)]
    outputs = numbered_paths(options.out, len(lists))
    check_outputs(outputs)
    keep_inputs(options, outputs)
    keep_inputs(options, outputs, checkpoint)
    options.signals.watch(outputs)
    movqgan = load_codec(checkpoint, options.movqgan, device)
    on_input_checked()
    with OutputFiles() as files:
        for codes, path in zip(grids, outputs, strict=True):
            options.signals.check()
            files.write_picture(to_image(decode_picture(movqgan, codes[None].to(device))), path)
        options.signals.check()


def _complete_rows(begun: BegunPicture, number: int) -> torch.Tensor:
    """Codes [rows,w] of a picture that may be cut off. Raises InputError where no row is complete."""
    rows = len(begun.codes)
    if not rows:
        raise InputError(f"picture {number} has no complete row of {begun.grid_w} codes; expected at least one")
    if rows < begun.grid_h:
        what = f"{rows} of {begun.grid_h} rows, {begun.grid_w * CODE_PIXELS}x{rows * CODE_PIXELS} pixels"
        logger.warning("Picture %s was not finished: it is decoded as far as it got, %s.", number, what)
    return begun.codes
