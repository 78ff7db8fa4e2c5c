"""`decode`: a JSON of tokens to pictures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.find import DEMO, open_checkpoint
from ..checkpoint.output_files import OutputFiles
from ..device import choose_device
from ..errors import InputError
from ..movqgan.codec import decode_picture
from ..pictures.images import to_image
from ..pipeline import load_codec
from .common import add_model_arguments
from .files import check_outputs, check_picture_suffix, numbered

HELP = "turn tokens into pictures"
EXPECTED = 'expected {"tokens": [[start, H, W, ..., end], ...]}'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All options of the command."""
    parser.add_argument("tokens", type=Path, help="JSON of tokens, as generate and encode write it")
    add_model_arguments(parser, checkpoint=DEMO)
    parser.add_argument("--out", type=Path, required=True, help="picture; several get _k before the suffix")


@torch.inference_mode()
def run(options: argparse.Namespace, input_is_good: Callable[[], None]) -> None:
    """Reads, decodes all, then writes."""
    check_picture_suffix(options.out)
    device, lists = choose_device(options.device), read_tokens(options.tokens)
    outputs = numbered(options.out, len(lists))
    check_outputs(outputs)
    checkpoint = open_checkpoint(options.checkpoint)
    grids = [checkpoint.vocabulary.parse_picture(tokens) for tokens in lists]
    movqgan = load_codec(checkpoint, options.movqgan, device)
    input_is_good()
    with OutputFiles() as files:
        for codes, path in zip(grids, outputs, strict=True):
            files.write_picture(to_image(decode_picture(movqgan, codes[None].to(device))), path)


def read_tokens(path: Path) -> list[list[Any]]:
    """The token lists in a JSON file. Raises InputError when it holds anything else."""
    try:
        lists = json.loads(path.read_text(encoding="utf-8"))["tokens"]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; {EXPECTED}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is no JSON of tokens ({error!r}); {EXPECTED}") from error
    if not isinstance(lists, list) or not lists or not all(isinstance(tokens, list) for tokens in lists):
        raise InputError(f"{path} holds no lists of tokens; {EXPECTED}")
    return lists
