"""Does the demo draw a thing in one place or in many? python -m benchmarks.spread [--prompt "a cat"] [--cfg 1.25 4]

Draws one prompt with many seeds, and counts in how many of the canvas's 16 cells (quarters of each side) the centre of
a drawn object of that kind lies at least once. Guidance magnifies how much likelier the text makes an object somewhere,
so a model that learnt nothing against it draws all of them in one place.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lumina_core.decoding.settings import DecodeSettings
from lumina_core.errors import InputError
from lumina_core.pipeline import Lumina
from training.world import CANVAS, KINDS, recognise

from .arguments import DEMO_CFG, exit_code
from .sources import caption_request, draw_pictures
from .whole_numbers import natural, positive

QUARTERS = 4


@dataclass(frozen=True)
class Spread:
    """How many pictures show the kind once and nothing else, and how often its centre is in each cell, int [4,4]."""

    pictures: int
    right: int
    counts: np.ndarray

    @property
    def cells(self) -> int:
        """Cells with a centre."""
        return int((self.counts > 0).sum())


def spread_of(pictures: Sequence[np.ndarray], kind: str) -> Spread:
    """Where objects of a kind are in pictures, uint8 [96, 96, 3]."""
    counts, right = np.zeros((QUARTERS, QUARTERS), int), 0
    for picture in pictures:
        objects = recognise(picture).objects
        right += [thing.kind for thing in objects] == [kind]
        for thing in objects:
            if thing.kind == kind:
                counts[int(thing.y * QUARTERS / CANVAS), int(thing.x * QUARTERS / CANVAS)] += 1
    return Spread(len(pictures), right, counts)


def draw_spread(lumina: Lumina, prompt: str, kind: str, cfg: float, options: argparse.Namespace) -> Spread:
    """Draws the prompt with the seeds from `options.seed` on, `options.batch` at a time."""
    pictures: list[np.ndarray] = []
    while len(pictures) < options.pictures:
        batch = min(options.batch, options.pictures - len(pictures))
        settings = DecodeSettings(cfg_scale=cfg, seed=options.seed + len(pictures))
        pictures += draw_pictures(lumina, caption_request(lumina, [prompt] * batch, settings))
    return spread_of(pictures, kind)


def run(options: argparse.Namespace) -> None:
    """Prints a table in Markdown, and under it the counts of the cells."""
    words = f" {options.prompt} "
    kinds = [kind for kind in KINDS if f" {kind} " in words]
    if len(kinds) != 1:
        raise InputError(f"the prompt is {options.prompt!r:.100}; expected one that names one kind, such as 'a cat'")
    kind = kinds[0]
    lumina, found = Lumina.load(options.checkpoint, device="cpu", dtype=torch.float32), {}
    print(
        f"| cfg | pictures of {options.prompt!r} | right | cells with a centre, of {QUARTERS**2} |\n|---|---|---|---|"
    )
    for cfg in options.cfg:
        found[cfg] = one = draw_spread(lumina, options.prompt, kind, cfg, options)
        print(f"| {cfg:g} | {one.pictures} | {one.right / one.pictures:.0%} | {one.cells} |", flush=True)
    for cfg, one in found.items():
        rows = "; ".join(" ".join(str(count) for count in row) for row in one.counts)
        print(f"\nCentres by cell at cfg {cfg:g}, rows from the top: {rows}.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line: 0, or 2 with one line on stderr for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="demo")
    parser.add_argument("--prompt", default="a cat")
    parser.add_argument("--pictures", type=positive, default=64)
    parser.add_argument("--batch", type=positive, default=16)
    parser.add_argument("--cfg", type=float, nargs="+", default=[1.0, DEMO_CFG, 2.0, 4.0])
    parser.add_argument("--seed", type=natural, default=0)
    options = parser.parse_args(arguments)
    return exit_code("spread", lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
