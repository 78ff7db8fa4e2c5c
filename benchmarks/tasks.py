"""Scores every task on two panels by the truth: python -m benchmarks.tasks [--truth | --reconstruct]

The world that renders a condition knows the right answer: where objects are, what a map looks like, and what an edit
changes. Samples come from a random stream that training does not use.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from PIL import Image

from lumina_core.decoding.request import Request
from lumina_core.decoding.settings import DecodeSettings
from lumina_core.device import choose_device
from lumina_core.pictures.images import to_pixels
from lumina_core.pipeline import Lumina
from lumina_core.tokens.prompts import find_template
from training.codes import task_prompt
from training.world import EDITS, MAPS, TASK_NAMES, TaskSample, canny, fresh_tasks, render

from .arguments import add_scoring_arguments, check_files, exit_code
from .sources import GRID_SIDE, draw_pictures, reconstructor
from .verdicts import Captioned, Verdict, judge_task, judged_sheet
from .whole_numbers import positive

KINDS = (
    *((task, map) for task in ("pair", "control", "predict") for map in MAPS),
    ("subject", None),
    *(("edit", kind) for kind in EDITS),
)
GOAL = 0.80  # Least mean score; see `judge_task` for what the score of a task is.
Panels = tuple[np.ndarray, np.ndarray]
Source = Callable[[Sequence[TaskSample], int], list[Panels]]


@dataclass(frozen=True)
class TaskScore:
    """The mean score of a task's pictures, 0 to 1, and the share that is right in every detail (`right`)."""

    task: str
    kind: str | None
    samples: int
    score: float
    right: float
    goal: float
    depth_rmse: float | None
    seconds: float


def condition_of(sample: TaskSample) -> np.ndarray:
    """The picture that a user gives; for edges it is Canny's result, not the world's own outlines."""
    if sample.upper.map == "canny":
        return canny(render(sample.upper.scene))
    return render(sample.upper.scene, sample.upper.map)


def rendered(samples: Sequence[TaskSample], seed: int) -> list[Panels]:
    """The truth: both panels as the world renders them."""
    return [tuple(render(panel.scene, panel.map) for panel in (one.upper, one.lower)) for one in samples]


def reconstructed(checkpoint: str, movqgan: str | None, device: torch.device) -> Source:
    """A source of the truth after MoVQGAN's encoder and decoder."""
    reconstruct = reconstructor(checkpoint, movqgan, device)

    def source(samples: Sequence[TaskSample], seed: int) -> list[Panels]:
        canvases = reconstruct([np.concatenate(pair) for pair in rendered(samples, seed)])
        return [tuple(np.split(canvas, 2)) for canvas in canvases]

    return source


def generated(checkpoint: str, movqgan: str | None, device: torch.device, settings: DecodeSettings) -> Source:
    """A source that draws each sample after its condition's codes. Picture k of a call has seed `seed` + k."""
    lumina = Lumina.load(checkpoint, movqgan=movqgan, device=device, dtype=torch.float32)

    def source(samples: Sequence[TaskSample], seed: int) -> list[Panels]:
        prompts = [lumina.tokenizer.encode_prompt(task_prompt(one)) for one in samples]
        given, conditions = None, None
        if find_template(samples[0].task).needs_condition:
            conditions = [condition_of(one) for one in samples]
            given = lumina.encode(torch.cat([to_pixels(Image.fromarray(one)) for one in conditions]))
        request = Request(prompts, 2 * GRID_SIDE, GRID_SIDE, given, replace(settings, seed=seed))
        uppers, lowers = zip(*(np.split(canvas, 2) for canvas in draw_pictures(lumina, request)), strict=True)
        return list(zip(conditions or uppers, lowers, strict=True))

    return source


def score_kind(
    task: str, kind: str | None, options: argparse.Namespace, source: Source
) -> tuple[TaskScore, list[Captioned]]:
    """Draws and judges fresh samples of one task and kind, `options.batch` at a time."""
    samples = fresh_tasks(task, kind, options.samples, options.seed)
    start = time.perf_counter()
    panels: list[Panels] = []
    for first in range(0, len(samples), options.batch):
        panels += source(samples[first : first + options.batch], options.seed + first)
    verdicts = [judge_task(one, *pair) for one, pair in zip(samples, panels, strict=True)]
    captioned = [
        Captioned(f"{task} {kind or ''}: {one.prompt or one.map}", np.concatenate(pair), verdict.right)
        for one, pair, verdict in zip(samples, panels, verdicts, strict=True)
    ]
    return _score(task, kind, verdicts, time.perf_counter() - start), captioned


def _score(task: str, kind: str | None, verdicts: Sequence[Verdict], seconds: float) -> TaskScore:
    score, right = (float(np.mean([getattr(one, name) for one in verdicts])) for name in ("score", "right"))
    rmse = [one.depth_rmse for one in verdicts if one.depth_rmse is not None]
    mean_rmse = float(np.mean(rmse)) if rmse else None
    return TaskScore(task, kind, len(verdicts), score, right, GOAL, mean_rmse, seconds)


def table(scores: Sequence[TaskScore]) -> str:
    """The scores in Markdown."""
    lines = ["| task | kind | samples | score | all right | depth RMSE | goal |", "|---|---|---|---|---|---|---|"]
    for one in scores:
        rmse = "" if one.depth_rmse is None else f"{one.depth_rmse:.3f}"
        missed = "" if one.score >= one.goal else " (missed)"
        lines.append(
            f"| {one.task} | {one.kind or ''} | {one.samples} | {one.score:.1%} | {one.right:.1%} | {rmse} "
            f"| {one.goal:.0%}{missed} |"
        )
    return "\n".join(lines)


def run(options: argparse.Namespace) -> list[TaskScore]:
    """Scores all tasks and kinds, prints each when it is done, and writes the files that the options name."""
    source, scores, captioned = _source(options), [], []
    for task, kind in KINDS:
        if options.tasks and task not in options.tasks:
            continue
        score, pictures = score_kind(task, kind, options, source)
        scores.append(score)
        captioned += pictures
        print(f"{task} {kind or ''}: {score.score:.1%}", file=sys.stderr, flush=True)
    print(table(scores))
    if options.json:
        options.json.write_text(json.dumps([asdict(score) for score in scores], indent=1) + "\n", encoding="utf-8")
    if options.sheet:
        judged_sheet(captioned).save(options.sheet)
    return scores


def _source(options: argparse.Namespace) -> Source:
    if options.truth:
        return rendered
    device = choose_device(options.device)
    if options.reconstruct:
        return reconstructed(options.checkpoint, options.movqgan, device)
    settings = DecodeSettings(cfg_scale=options.cfg, decoder=options.decoder, window_size=options.window)
    return generated(options.checkpoint, options.movqgan, device, settings)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Raises InputError for an output that cannot be written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_scoring_arguments(parser)
    parser.add_argument("--tasks", nargs="+", choices=TASK_NAMES, help="only these")
    parser.add_argument("--samples", type=positive, default=50, help="of each task and kind")
    parser.add_argument("--batch", type=positive, default=10, help="pictures at a time")
    options = parser.parse_args(arguments)
    check_files(options)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line: 0, or 2 with one line on stderr for bad input."""
    return exit_code("tasks", lambda: run(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())
