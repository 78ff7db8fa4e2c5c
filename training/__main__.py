"""Trains the demo checkpoint from scratch: python -m training --out FOLDER

Trains text tokenizer, MoVQGAN and transformer; each also has its own command. The codes of a scene are known without
the MoVQGAN, so the last two can also be trained beside each other, by their own commands; config.json names the codec
that is there when the transformer ends. Takes some hours on a CPU.
On a GPU, `--seconds 500 --resume` takes that long in all, in as many runs as it takes.
"""

import argparse
from collections.abc import Sequence

import torch

from . import movqgan, transformer
from .arguments import add_arguments, run_training
from .progress import Progress
from .text_tokenizer import train_text_tokenizer

CODEC_SHARE = 0.4


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, "folder for the checkpoint")
    parser.add_argument("--movqgan-steps", type=int, default=movqgan.STEPS)
    parser.add_argument("--transformer-steps", type=int, default=transformer.STEPS)
    options = parser.parse_args(arguments)
    run_training(parser, options.device, lambda device: make(options, device))


def make(options: argparse.Namespace, device: torch.device) -> None:
    """Trains all three. Raises InputError for steps or seconds that are none, before anything is trained."""
    codec_seconds, seconds = None, None
    if options.seconds is not None:
        codec_seconds, seconds = CODEC_SHARE * options.seconds, (1 - CODEC_SHARE) * options.seconds
    for amount in ((options.movqgan_steps, codec_seconds), (options.transformer_steps, seconds)):
        Progress(*amount)
    train_text_tokenizer(options.out, options.seed)
    rest = options.seed, options.resume, device
    movqgan.make(options.out, options.movqgan_steps, codec_seconds, *rest)
    transformer.make(options.out, options.transformer_steps, seconds, *rest)


if __name__ == "__main__":
    main()
