"""What a negative prompt does to the demo: python -m benchmarks.negative_prompt

Draws prompts that leave the colour open ("a circle"), without and with the negative prompt that names one ("a red
circle"). No two pictures have one seed. A recogniser reads the colours. Prints the share of pictures with that colour,
that of pictures with the right shape alone, and the p-value of Fisher's exact two-sided test that the first share is
the same.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from lumina_core.decoding.settings import DecodeSettings
from lumina_core.pipeline import Lumina
from training.world import CANVAS, COLOURS, SHAPES, recognise

from .whole_numbers import positive

DEFAULTS = DecodeSettings()


@dataclass(frozen=True)
class Counts:
    """Of so many pictures, those with a shape of the colour, and those with the asked shape and nothing else."""

    pictures: int
    coloured: int
    right: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(one + more for one, more in zip(self.values, other.values, strict=True)))

    @property
    def values(self) -> tuple[int, int, int]:
        return self.pictures, self.coloured, self.right


def count(pictures: Sequence[np.ndarray], shape: str, colour: str) -> Counts:
    """What the recogniser reads from pictures, uint8 [H, W, 3]."""
    objects = [recognise(picture).objects for picture in pictures]
    coloured = sum(any(one.colour == colour for one in each) for each in objects)
    right = sum([one.kind for one in each] == [shape] for each in objects)
    return Counts(len(objects), coloured, right)


def measure(lumina: Lumina, shape: str, negative: str | None, seed: int, options: argparse.Namespace) -> Counts:
    """The counts of `options.pictures` pictures of a shape, in batches; picture k has the seed `seed` + k."""
    total = Counts(0, 0, 0)
    for first in range(0, options.pictures, options.batch):
        batch, settings = min(options.batch, options.pictures - first), {"seed": seed + first}
        drawing = lumina.draw(
            f"a {shape}", CANVAS, CANVAS, batch=batch, negative=negative, cfg_scale=options.cfg, **settings
        )
        total += count([np.asarray(picture) for picture in drawing.images], shape, options.colour)
    return total


def fisher(first: tuple[int, int], second: tuple[int, int]) -> float:
    """The two-sided p-value of Fisher's exact test that two (hits, trials) have one probability.

    The sum of the probabilities of all tables with these margins that are no likelier than this one.
    """
    (hits, trials), (others, rest) = first, second
    found, whole = hits + others, trials + rest
    ways = [math.comb(trials, k) * math.comb(rest, found - k) for k in range(found + 1)]
    return sum(each for each in ways if each <= ways[hits]) / math.comb(whole, found)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.negative_prompt", description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="demo")
    parser.add_argument("--colour", choices=tuple(COLOURS), default="red")
    parser.add_argument("--pictures", type=positive, default=60, help="of each shape, with and without")
    parser.add_argument("--batch", type=positive, default=20)
    parser.add_argument("--cfg", type=float, default=DEFAULTS.cfg_scale)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    lumina = Lumina.load(options.checkpoint, dtype=torch.float32)
    found = {"without": Counts(0, 0, 0), "with": Counts(0, 0, 0)}
    for number, (shape, name) in enumerate(itertools.product(SHAPES, found)):
        negative, seed = f"a {options.colour} {shape}", options.seed + number * options.pictures
        found[name] += measure(lumina, shape, negative if name == "with" else None, seed, options)
    p_value = fisher(*((one.coloured, one.pictures) for one in found.values()))
    if options.json:
        print(json.dumps({**{name: asdict(one) for name, one in found.items()}, "p_value": p_value}))
        return 0
    for name, one in found.items():
        shares = f"{options.colour} {one.coloured / one.pictures:.1%}, right shape {one.right / one.pictures:.1%}"
        print(f"{name:<8} {one.pictures} pictures: {shares}")
    print(f"Fisher's exact test, two-sided: p = {p_value:.2g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
