"""Do candidates help to fill a hole? python -m benchmarks.inpainting [--candidates 8] [--cfg 4]

Each scene has several objects, the first of them above a row of codes that touches none. All above that row is a hole;
the model fills it with the scene's own caption as prompt. A recogniser judges whether the whole picture is what the
caption says: an object that is below the hole already must not be drawn again. The table compares the share of right
pictures of one candidate with that of the candidate after which the given codes are likeliest.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from lumina_core.decoding.settings import DecodeSettings
from lumina_core.pictures.images import to_pixels
from lumina_core.pictures.sizes import CODE_PIXELS
from lumina_core.pipeline import Drawing, Lumina
from training.world import Sample, Scene, fresh_samples, judge, recognise, render

from .arguments import DEMO_CFG
from .sources import GRID_SIDE, caption_request

CATEGORIES = ("counting", "two_objects", "colour_attribution")


@dataclass(frozen=True)
class Filled:
    """Which candidates for a hole are right, the chosen one, and their effective sample size."""

    right: tuple[bool, ...]
    chosen: int
    sample_size: float


def rows_above(scene: Scene) -> int | None:
    """Rows of codes above which the scene has objects, and below which too; None where no row parts them."""
    tops = [thing.y for thing in scene.objects]
    ends = [thing.y + thing.side for thing in scene.objects]
    parting = (row for row in range(0, GRID_SIDE * CODE_PIXELS, CODE_PIXELS) if not _crosses(row, tops, ends))
    return next((row // CODE_PIXELS for row in parting if min(ends) <= row <= max(tops)), None)


def _crosses(row: int, tops: list[int], ends: list[int]) -> bool:
    return any(top < row < end for top, end in zip(tops, ends, strict=True))


def parted_samples(category: str, seed: int) -> Iterator[tuple[Sample, int]]:
    """Fresh samples whose objects a row parts, with that row."""
    for sample in fresh_samples(category, 1000, seed):
        if (rows := rows_above(sample.scene)) is not None:
            yield sample, rows


def fill(lumina: Lumina, sample: Sample, rows: int, settings: DecodeSettings, candidates: int) -> Filled:
    """Fills the hole above so many rows of codes; candidate k has the settings' seed + k."""
    own = to_pixels(Image.fromarray(render(sample.scene)))
    mask = (torch.arange(GRID_SIDE)[:, None] < rows).expand(1, -1, GRID_SIDE)
    request = caption_request(lumina, [sample.caption] * candidates, settings)
    request = replace(request, given_codes=lumina.encode(own), mask=mask, score_given=True)
    drawing = Drawing(lumina, lumina.sample(request), mask, own)
    right = tuple(judge(sample.spec, recognise(np.asarray(one))) for one in drawing.images)
    return Filled(right, drawing.best.index or 0, drawing.result.effective_sample_size or 1.0)


def line(name: str, filled: list[Filled]) -> str:
    """A row of the table: shares, and the gain of choosing in standard errors of that difference."""
    one = np.array([np.mean(hole.right) for hole in filled])
    chosen = np.array([hole.right[hole.chosen] for hole in filled])
    gain, best = chosen - one, np.mean([any(hole.right) for hole in filled])
    error = gain.std(ddof=1) / math.sqrt(len(gain))
    sigmas = f"{gain.mean() / error:+.1f} σ" if error else "0 σ"
    size = np.mean([hole.sample_size for hole in filled])
    return f"| {name} | {len(filled)} | {one.mean():.1%} | {chosen.mean():.1%} | {sigmas} | {best:.1%} | {size:.2f} |"


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--holes-per-category", type=int, default=60)
    parser.add_argument("--cfg", type=float, default=DEMO_CFG)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    lumina, everything = Lumina.load("demo", device="cpu", dtype=torch.float32), []
    print(f"float32 on a CPU, cfg {options.cfg:g}, decoder {DecodeSettings().decoder}\n")
    print(f"| category | holes | one candidate | best of {options.candidates} | gain | any | effective sample size |")
    print("|---|---|---|---|---|---|---|")
    for category in CATEGORIES:
        filled = []
        for number, (sample, rows) in enumerate(parted_samples(category, options.seed)):
            if number == options.holes_per_category:
                break
            settings = DecodeSettings(cfg_scale=options.cfg, seed=options.seed + options.candidates * number)
            filled.append(fill(lumina, sample, rows, settings, options.candidates))
        print(line(category, filled), flush=True)
        everything += filled
    print(line("all", everything))


if __name__ == "__main__":
    main()
