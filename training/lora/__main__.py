"""Trains a LoRA on a folder of captioned pictures: python -m training.lora --checkpoint … --data … --out …"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lumina_core.cli.common import add_model_arguments, add_weights_argument
from lumina_core.cli.signals import Cancelled, Signals
from lumina_core.device import is_out_of_memory
from lumina_core.errors import InputError, LuminaError
from lumina_core.tokens.prompts import MAPS, TASKS

from .layers import TARGETS
from .run import run

BAD_INPUT = 2


class _Parser(argparse.ArgumentParser):
    """Raises parse errors as InputError, so that one line is printed and no usage text."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = _Parser(
        prog="python -m training.lora",
        description="Trains a LoRA on a folder of captioned pictures.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_model_arguments(parser)
    add_weights_argument(parser)
    _add_data_arguments(parser)
    _add_training_arguments(parser)
    return parser


def _add_data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder of pictures, a .txt of its name beside each")
    parser.add_argument("--out", type=Path, required=True, help="the LoRA, a .safetensors file")
    parser.add_argument("--task", choices=TASKS, default="t2i", help="a picture is the whole canvas, both panels")
    parser.add_argument("--map", choices=tuple(MAPS), help="kind of map, for pair, control and predict")
    parser.add_argument("--object", help="description of the object in the upper panel, for subject")
    parser.add_argument("--width", type=int, help="of the canvas in pixels (default: the largest trained size)")
    parser.add_argument("--height", type=int, help="of the canvas in pixels (default: the largest trained size)")
    parser.add_argument("--keep", type=Path, help="file of prompts, one a line, whose pictures are to stay as they are")
    parser.add_argument("--keep-weight", type=float, default=1.0, help="weight of what --keep is to keep, in the loss")
    parser.add_argument("--sample-prompt", help="draw this on the way, beside --out")
    parser.add_argument("--sample-every", type=int, help="steps between two samples")


def _add_training_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--alpha", type=float, default=16.0, help="the update is alpha / rank times B A")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS), help="layers with an update")
    parser.add_argument("--lr", type=float, default=1e-4, help="peak of the learning rate")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=4, help="pictures of a forward")
    parser.add_argument("--accumulate", type=int, default=1, help="forwards of a step")
    parser.add_argument("--without-text", type=float, default=0.1, help="share of pictures without their prompt")
    parser.add_argument(
        "--guidance-weight",
        type=float,
        default=0.0,
        help="weight of what guidance makes likely though it is unlikely with the prompt; above 0, every picture is "
        "trained with its prompt and without, in twice the time",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpointing", choices=("on", "off"), default="on", help="on: less memory, more time")
    parser.add_argument("--resume", action="store_true", help="go on from the state beside --out")
    parser.add_argument("--save-every", type=int, default=100, help="steps between two states")


def main(arguments: Sequence[str] | None = None, signals: Signals | None = None) -> int:
    """Runs the command line: 0, 2 with one line on stderr for bad input, or 128 + the number of a signal."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger(__package__).setLevel(logging.INFO)
    signals = signals or Signals()
    try:
        with signals:
            run(make_parser().parse_args(arguments), signals)
        return 0
    except Cancelled as cancelled:
        return _fail(str(cancelled) or "cancelled; nothing was written", signals.exit_code)
    except (LuminaError, OSError) as error:
        return _fail(" ".join(str(error).split()), BAD_INPUT)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return _fail("out of memory; use a smaller --batch or --weights int4", BAD_INPUT)


def _fail(message: str, code: int) -> int:
    print(f"training.lora: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
