"""Is the likeliest of N pictures better than one? python -m benchmarks.best_of [--pictures 8]

Draws N pictures of each fresh prompt in one batch and judges them all. It tells which share is right of one picture, of
the one with the largest guided log-likelihood, and of the best that any verifier could choose.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import numpy as np
import torch

from lumina_core.decoding.settings import DecodeSettings
from lumina_core.pipeline import Request, draw
from lumina_core.tokens.prompts import build_prompt
from training.world import CANVAS, CATEGORIES, Sample, fresh_samples, judge, recognise

from .sources import GRID_SIDE, Demo, load_demo, to_pictures


@dataclass(frozen=True)
class Judged:
    """Of one prompt: which of the pictures are right, and which is the likeliest."""

    right: tuple[bool, ...]
    likeliest: int


@torch.inference_mode()
def draw_and_judge(demo: Demo, sample: Sample, settings: DecodeSettings, pictures: int) -> Judged:
    """Draws one prompt so many times, with seeds from that of the settings on."""
    prompt = demo.tokenizer.encode_prompt(build_prompt("t2i", CANVAS, CANVAS, sample.caption))
    request = Request([prompt] * pictures, GRID_SIDE, GRID_SIDE, settings=settings)
    result = draw(demo.transformer, demo.vocabulary, request)
    right = tuple(judge(sample.spec, recognise(one)) for one in to_pictures(demo.movqgan.decode(result.codes)))
    return Judged(right, int(np.argmax(result.log_likelihood)))


def line(name: str, judged: list[Judged]) -> str:
    """A row of the table: shares, and what choosing by likelihood gains in standard errors of that difference."""
    one = np.array([np.mean(prompt.right) for prompt in judged])
    likeliest = np.array([prompt.right[prompt.likeliest] for prompt in judged])
    best = np.mean([any(prompt.right) for prompt in judged])
    gain = likeliest - one
    error = gain.std(ddof=1) / math.sqrt(len(gain)) if len(gain) > 1 else 0.0
    sigmas = f"{gain.mean() / error:+.1f} σ" if error else "0 σ"
    return f"| {name} | {len(judged)} | {one.mean():.1%} | {likeliest.mean():.1%} | {sigmas} | {best:.1%} |"


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="demo")
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--prompts-per-category", type=int, default=50)
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    demo, everything = load_demo(options.checkpoint, "cpu"), []
    print(f"| category | prompts | one picture | likeliest of {options.pictures} | gain | best of {options.pictures} |")
    print("|---|---|---|---|---|---|")
    for category in CATEGORIES:
        judged = []
        for number, sample in enumerate(fresh_samples(category, options.prompts_per_category, options.seed)):
            settings = DecodeSettings(cfg_scale=options.cfg, seed=options.seed + options.pictures * number)
            judged.append(draw_and_judge(demo, sample, settings, options.pictures))
        print(line(category, judged), flush=True)
        everything += judged
    print(line("all", everything))


if __name__ == "__main__":
    main()
