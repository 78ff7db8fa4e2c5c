"""Trains the demo checkpoint from scratch: python -m training --out FOLDER

Trains text tokenizer, MoVQGAN and transformer; each also has its own command. The codes of a scene are known without
the MoVQGAN, so the last two can also be trained beside each other, by their own commands. Takes some hours on a CPU.
On a GPU, `--seconds 500 --resume` takes that long in all, in as many runs as it takes.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from . import movqgan, transformer
from .text_tokenizer import train_text_tokenizer

CODEC_SHARE = 0.4


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, help="train for this long in all, instead of a number of steps")
    parser.add_argument("--resume", action="store_true", help="go on from the states in the folder")
    parser.add_argument("--movqgan-steps", type=int, default=movqgan.STEPS)
    parser.add_argument("--transformer-steps", type=int, default=transformer.STEPS)
    parser.add_argument("--device", type=torch.device, default=default_device(), help="such as cpu or cuda")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    codec_seconds, seconds = None, None
    if options.seconds is not None:
        codec_seconds, seconds = CODEC_SHARE * options.seconds, (1 - CODEC_SHARE) * options.seconds
    train_text_tokenizer(options.out, options.seed)
    rest = options.seed, options.resume, options.device
    movqgan.make(options.out, options.movqgan_steps, codec_seconds, *rest)
    transformer.make(options.out, options.transformer_steps, seconds, *rest)


def default_device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    main()
