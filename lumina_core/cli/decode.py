"""`decode`: converts a JSON file of tokens to pictures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.find import DEMO, open_checkpoint
from ..device import choose_device
from ..errors import InputError
from ..files.output_files import OutputFiles, check_outputs, check_picture_suffix, numbered_paths
from ..movqgan.codec import decode_picture
from ..pictures.images import to_image
from ..pipeline import load_codec
from .common import add_model_arguments

HELP = "convert tokens to pictures"
EXPECTED = 'expected {"tokens": [[start, H, W, ..., end], ...]}'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tokens", type=Path, help="JSON file of tokens, as written by generate and encode")
    add_model_arguments(parser, checkpoint=DEMO)
    parser.add_argument("--out", type=Path, required=True, help="picture file; several get _k before the suffix")


@torch.inference_mode()
def run(options: argparse.Namespace, on_input_checked: Callable[[], None]) -> None:
    """Reads the tokens, decodes all pictures, then writes them."""
    check_picture_suffix(options.out)
    device, lists = choose_device(options.device), read_tokens(options.tokens)
    outputs = numbered_paths(options.out, len(lists))
    check_outputs(outputs)
    checkpoint = open_checkpoint(options.checkpoint)
    grids = [checkpoint.vocabulary.parse_picture(tokens) for tokens in lists]
    movqgan = load_codec(checkpoint, options.movqgan, device)
    on_input_checked()
    with OutputFiles() as files:
        for codes, path in zip(grids, outputs, strict=True):
            files.write_picture(to_image(decode_picture(movqgan, codes[None].to(device))), path)


def read_tokens(path: Path) -> list[list[Any]]:
    """The token lists of a JSON file. Raises InputError when it contains anything else."""
    try:
        lists = json.loads(path.read_text(encoding="utf-8"))["tokens"]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; {EXPECTED}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is not a JSON file of tokens ({error!r}); {EXPECTED}") from error
    if not isinstance(lists, list) or not lists or not all(isinstance(tokens, list) for tokens in lists):
        raise InputError(f"{path} contains no lists of tokens; {EXPECTED}")
    return lists
