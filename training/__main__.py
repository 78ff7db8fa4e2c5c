"""Makes the demo checkpoint from nothing: python -m training --out FOLDER

Text tokenizer, MoVQGAN and transformer, in this order; each also has a command of its own. Takes hours on a CPU.
"""

import argparse
import logging
from pathlib import Path

from . import movqgan, transformer
from .text_tokenizer import train_text_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that gets the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--movqgan-steps", type=int, default=movqgan.STEPS)
    parser.add_argument("--transformer-steps", type=int, default=transformer.STEPS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train_text_tokenizer(options.out, options.seed)
    movqgan.save(movqgan.train(options.movqgan_steps, options.seed), options.out / "movqgan.safetensors")
    transformer.train(options.out, options.transformer_steps, options.seed)


if __name__ == "__main__":
    main()
