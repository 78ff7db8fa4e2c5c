"""Is the likeliest of N pictures better than one? python -m benchmarks.best_of [--pictures 8]

Draws N pictures of each fresh prompt in one batch and judges them all. The table compares the share of right pictures
of one picture, of the picture with the largest guided log-likelihood, and of the best that any verifier could choose.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import numpy as np
import torch

from lumina_core.decoding.settings import DecodeSettings
from lumina_core.pipeline import Lumina
from training.world import CATEGORIES, Sample, fresh_samples, judge, recognise

from .arguments import DEMO_CFG
from .sources import caption_request


@dataclass(frozen=True)
class Judged:
    """The pictures of one prompt: which are right, and which is the likeliest."""

    right: tuple[bool, ...]
    likeliest: int


def draw_and_judge(lumina: Lumina, sample: Sample, settings: DecodeSettings, pictures: int) -> Judged:
    """Draws one prompt `pictures` times; picture k has the settings' seed + k."""
    result = lumina.sample(caption_request(lumina, [sample.caption] * pictures, settings))
    right = tuple(judge(sample.spec, recognise(np.asarray(one))) for one in lumina.decode(result.codes))
    return Judged(right, int(np.argmax(result.log_likelihood)))


def line(name: str, judged: list[Judged]) -> str:
    """A row of the table: shares, and the gain of choosing by likelihood in standard errors of that difference."""
    one = np.array([np.mean(prompt.right) for prompt in judged])
    likeliest = np.array([prompt.right[prompt.likeliest] for prompt in judged])
    best = np.mean([any(prompt.right) for prompt in judged])
    gain = likeliest - one
    error = gain.std(ddof=1) / math.sqrt(len(gain)) if len(gain) > 1 else 0.0
    sigmas = f"{gain.mean() / error:+.1f} σ" if error else "0 σ"
    return f"| {name} | {len(judged)} | {one.mean():.1%} | {likeliest.mean():.1%} | {sigmas} | {best:.1%} |"


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="demo")
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--prompts-per-category", type=int, default=50)
    parser.add_argument("--cfg", type=float, default=DEMO_CFG)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    lumina, everything = Lumina.load(options.checkpoint, device="cpu", dtype=torch.float32), []
    print(f"| category | prompts | one picture | likeliest of {options.pictures} | gain | best of {options.pictures} |")
    print("|---|---|---|---|---|---|")
    for category in CATEGORIES:
        judged = []
        for number, sample in enumerate(fresh_samples(category, options.prompts_per_category, options.seed)):
            settings = DecodeSettings(cfg_scale=options.cfg, seed=options.seed + options.pictures * number)
            judged.append(draw_and_judge(lumina, sample, settings, options.pictures))
        print(line(category, judged), flush=True)
        everything += judged
    print(line("all", everything))


if __name__ == "__main__":
    main()
