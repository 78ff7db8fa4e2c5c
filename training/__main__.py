"""Trains the demo checkpoint from scratch: python -m training --out FOLDER

Trains text tokenizer, MoVQGAN and transformer, in this order; each also has its own command. Takes some five hours on a
CPU.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from . import movqgan, transformer
from .text_tokenizer import train_text_tokenizer


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--movqgan-steps", type=int, default=movqgan.STEPS)
    parser.add_argument("--polish-steps", type=int, default=movqgan.POLISH_STEPS, help="of the MoVQGAN")
    parser.add_argument("--most-panel-steps", type=int, default=movqgan.MOST_PANEL_STEPS, help="in a round")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train_text_tokenizer(options.out, options.seed)
    codec_steps = (options.movqgan_steps, options.polish_steps, options.most_panel_steps)
    movqgan.make(options.out / movqgan.FILE_NAME, *codec_steps, options.seed)
    transformer.make(options.out, transformer.ROUNDS, options.seed)


if __name__ == "__main__":
    main()
