"""Scores the demo checkpoint by GenEval's questions: python -m benchmarks.quality [--truth | --reconstruct]

Captions come from a random stream that training does not use. A recogniser reads the objects from the pictures.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from lumina_core.decoding.settings import DecodeSettings
from lumina_core.device import choose_device
from training.world import CATEGORIES, Sample, fresh_samples, judge, judge_strict, recognise

from .arguments import add_scoring_arguments, check_files, exit_code
from .sources import generated, reconstructed, rendered
from .verdicts import Captioned, judged_sheet
from .whole_numbers import positive

GOALS = {
    "truth": dict.fromkeys(CATEGORIES, 0.99),
    "reconstruct": dict.fromkeys(CATEGORIES, 0.97),
    "generate": {
        "single_object": 0.95,
        "colours": 0.95,
        "two_objects": 0.85,
        "colour_attribution": 0.85,
        "position": 0.80,
        "counting": 0.80,
    },
}


@dataclass(frozen=True)
class Score:
    """Shares of a category's pictures that are `right`, and right in every stated and unstated detail (`strict`)."""

    category: str
    prompts: int
    right: float
    strict: float
    goal: float
    seconds: float


@dataclass(frozen=True)
class Judged(Captioned):
    """One picture with its caption and both verdicts."""

    strict: bool


def judge_pictures(samples: Sequence[Sample], pictures: Sequence[np.ndarray]) -> list[Judged]:
    """The verdict on each picture, uint8 [H, W, 3]."""
    verdicts = []
    for item, picture in zip(samples, pictures, strict=True):
        found = recognise(picture)
        verdicts.append(Judged(item.caption, picture, judge(item.spec, found), judge_strict(item.spec, found)))
    return verdicts


def score_category(
    category: str,
    goal: float,
    options: argparse.Namespace,
    source: Callable[[Sequence[Sample], int], list[np.ndarray]],
) -> tuple[Score, list[Judged]]:
    """Draws and judges one category's fresh prompts, `options.batch` at a time."""
    samples = fresh_samples(category, options.prompts_per_category, options.seed)
    start, judged = time.perf_counter(), []
    for first in range(0, len(samples), options.batch):
        batch = samples[first : first + options.batch]
        judged += judge_pictures(batch, source(batch, options.seed + first))
    right, strict = (float(np.mean([getattr(item, name) for item in judged])) for name in ("right", "strict"))
    return Score(category, len(samples), right, strict, goal, time.perf_counter() - start), judged


def table(scores: Sequence[Score]) -> str:
    """The scores as text: one line for each category, then their mean."""
    lines = [f"{'category':<20}{'prompts':>8}{'right':>8}{'strict':>8}{'goal':>7}{'seconds':>9}"]
    for score in scores:
        mark = "" if score.right >= score.goal else "  below the goal"
        lines.append(
            f"{score.category:<20}{score.prompts:>8}{score.right:>8.1%}{score.strict:>8.1%}"
            f"{score.goal:>7.0%}{score.seconds:>9.1f}{mark}"
        )
    right, strict = np.mean([score.right for score in scores]), np.mean([score.strict for score in scores])
    total = sum(score.prompts for score in scores)
    lines.append(f"{'mean':<20}{total:>8}{right:>8.1%}{strict:>8.1%}")
    return "\n".join(lines)


def run(options: argparse.Namespace) -> list[Score]:
    """Scores all categories, prints each when it is done, and writes the files that the options name."""
    kind = "truth" if options.truth else "reconstruct" if options.reconstruct else "generate"
    source, scores, judged = _source(kind, options), [], []
    for category in CATEGORIES:
        score, pictures = score_category(category, GOALS[kind][category], options, source)
        scores.append(score)
        judged += pictures
        print(f"{category}: {score.right:.1%}", file=sys.stderr, flush=True)
    print(table(scores))
    if options.json:
        options.json.write_text(json.dumps(_report(kind, options, scores), indent=1) + "\n", encoding="utf-8")
    if options.sheet:
        judged_sheet(judged).save(options.sheet)
    return scores


def _source(kind: str, options: argparse.Namespace) -> Callable[[Sequence[Sample], int], list[np.ndarray]]:
    if kind == "truth":
        return rendered
    device = choose_device(options.device)
    if kind == "reconstruct":
        return reconstructed(options.checkpoint, options.movqgan, device)
    settings = DecodeSettings(
        cfg_scale=options.cfg,
        top_k=options.top_k,
        temperature=options.temperature,
        decoder=options.decoder,
        window_size=options.window,
    )
    return generated(options.checkpoint, options.movqgan, device, settings)


def _report(kind: str, options: argparse.Namespace, scores: Sequence[Score]) -> dict[str, object]:
    outputs = ("json", "sheet", "truth", "reconstruct")
    settings = {name: value for name, value in vars(options).items() if name not in outputs}
    mean = float(np.mean([score.right for score in scores]))
    return {"pictures": kind, "settings": settings, "mean": mean, "scores": [asdict(score) for score in scores]}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Raises InputError for an output that cannot be written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_scoring_arguments(parser)
    parser.add_argument("--top-k", type=int, default=4096)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--prompts-per-category", type=positive, default=50)
    parser.add_argument("--batch", type=positive, default=16, help="pictures at a time")
    options = parser.parse_args(arguments)
    check_files(options)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line: 0, or 2 with one line on stderr for bad input."""
    return exit_code("quality", lambda: run(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())
