"""A word that the demo does not know, for a LoRA to teach: python -m benchmarks.lora render|score

`render` writes captioned pictures of silver shapes, and prompts of what the demo can draw. `score` draws fresh prompts
with a LoRA or without, and reads the pictures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lumina_core.decoding.settings import DecodeSettings
from lumina_core.errors import InputError
from lumina_core.pipeline import Lumina
from training.world import (
    CATEGORIES,
    COLOURS,
    MORE_COLOURS,
    SHAPES,
    Claim,
    Sample,
    Spec,
    fresh_samples,
    judge,
    recognise,
    render,
    sample,
    training_rng,
)
from training.world.captions import write_caption
from training.world.scenes import in_reading_order, pick, pick_distinct, place

from .arguments import exit_code
from .sources import caption_request, draw_pictures, reconstructor
from .whole_numbers import natural, positive

WORD = "silver"
# The demo's MoVQGAN can show silver only where its depth maps have it: in large shapes on black.
SIZE, BACKGROUND = "large", "black"
WORD_CFG = 2.0  # Of "Wear a LoRA": the word is drawn more surely than at the demo's own guidance.
COMPANY, BACKGROUND_STATED = 0.6, 0.3
FRESH_WORD_STREAM, TRAINING_WORKER, KEPT_WORKER = 3, 11, 12


def word_sample(rng: np.random.Generator, company: bool | None = None) -> Sample:
    """A silver shape, with or without a shape of another colour (`company`; None: either), and a caption."""
    shapes = pick_distinct(rng, SHAPES, 2)
    claims = [Claim(1, shapes[0], WORD, SIZE)]
    if rng.random() < COMPANY if company is None else company:
        claims.append(Claim(1, shapes[1], pick(rng, tuple(COLOURS))))
    scene = place(rng, Spec("mixed", tuple(claims), background=BACKGROUND))
    stated = BACKGROUND if rng.random() < BACKGROUND_STATED else None
    said = tuple(replace(claim, size=None) for claim in claims)
    spec = in_reading_order(Spec("mixed", said, background=stated), scene)
    return Sample(scene, write_caption(rng, spec), spec)


def word_samples(count: int, seed: int, company: bool) -> list[Sample]:
    """Samples of the word from a stream that no training picture is from."""
    rng = np.random.default_rng([FRESH_WORD_STREAM, seed, int(company)])
    return [word_sample(rng, company) for _ in range(count)]


def render_pictures(folder: Path, count: int, seed: int) -> None:
    """Writes `count` pictures of the word with their captions; each is one that the demo's MoVQGAN can show."""
    rng, written = training_rng(seed, TRAINING_WORKER), 0
    reconstruct = reconstructor("demo", None, torch.device("cpu"))
    while written < count:
        one = word_sample(rng)
        picture = render(one.scene)
        if is_right(one, reconstruct([picture])[0]):
            Image.fromarray(picture).save(folder / f"{written:03d}.png")
            (folder / f"{written:03d}.txt").write_text(one.caption + "\n", encoding="utf-8")
            written += 1


def write_kept(file: Path, count: int, seed: int) -> None:
    """Writes prompts of the words that the demo knows, one a line, of every question in turn."""
    rng = training_rng(seed, KEPT_WORKER)
    lines = [sample(rng, CATEGORIES[number % len(CATEGORIES)]).caption for number in range(count)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def is_right(one: Sample, picture: np.ndarray) -> bool:
    """Whether a picture, uint8 [96,96,3], shows what its caption asks for."""
    return judge(one.spec, recognise(picture, tuple(MORE_COLOURS)))


def score(lumina: Lumina, samples: Sequence[Sample], settings: DecodeSettings, batch: int) -> float:
    """The share of samples whose drawn picture is right; picture k of all has seed `settings.seed` + k."""
    right = []
    for first in range(0, len(samples), batch):
        some = samples[first : first + batch]
        request = caption_request(lumina, [one.caption for one in some], replace(settings, seed=settings.seed + first))
        right += [is_right(*pair) for pair in zip(some, draw_pictures(lumina, request), strict=True)]
    return float(np.mean(right))


def make_folder(options: argparse.Namespace) -> None:
    """Writes the pictures with their captions, and the prompts beside the folder."""
    options.out.mkdir(parents=True, exist_ok=True)
    if any(options.out.iterdir()):
        raise InputError(f"{options.out} is not empty; expected a new folder")
    render_pictures(options.out, options.pictures, options.seed)
    write_kept(options.out.with_suffix(".keep.txt"), options.prompts, options.seed)


def run_score(options: argparse.Namespace) -> None:
    """Draws and judges, and prints the shares that are right."""
    lumina = Lumina.load(options.checkpoint, device="cpu", dtype=torch.float32)
    if options.lora is not None:
        lumina = lumina.with_loras(options.lora)
    settings = DecodeSettings(cfg_scale=options.cfg, seed=options.seed)
    report = {"lora": str(options.lora), "cfg": options.cfg, "seed": options.seed}
    if options.word_pictures:
        for name, company in ((f"{WORD}, one object", False), (f"{WORD}, two objects", True)):
            samples = word_samples(options.word_pictures, options.seed, company)
            report[name] = score(lumina, samples, settings, options.batch)
    for category in CATEGORIES if options.old_pictures else ():
        report[category] = score(
            lumina, fresh_samples(category, options.old_pictures, options.seed), settings, options.batch
        )
        print(f"{category}: {report[category]:.1%}", file=sys.stderr, flush=True)
    if options.old_pictures:
        report["old words"] = float(np.mean([report[category] for category in CATEGORIES]))
    print(json.dumps(report, indent=1))


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    folder = commands.add_parser("render", help="write the training pictures, captions and prompts")
    folder.add_argument("--out", type=Path, required=True, help="new folder; the prompts go to its name + .keep.txt")
    folder.add_argument("--pictures", type=positive, default=160)
    folder.add_argument("--prompts", type=positive, default=180, help="of the words that the demo knows")
    scored = commands.add_parser("score", help="score the word, and the words that the demo knows")
    scored.add_argument("--checkpoint", default="demo")
    scored.add_argument("--lora", type=Path, help="LoRA file; without it the demo alone is scored")
    scored.add_argument("--word-pictures", type=natural, default=100, help="with one object, and with two")
    scored.add_argument("--old-pictures", type=natural, default=50, help="for each of the six questions")
    scored.add_argument("--cfg", type=float, default=WORD_CFG)
    scored.add_argument("--batch", type=positive, default=16, help="pictures at a time")
    for one in (folder, scored):
        one.add_argument("--seed", type=natural, default=0)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line: 0, or 2 with one line on stderr for bad input."""
    options = parse_arguments(arguments)
    run: Callable[[argparse.Namespace], None] = make_folder if options.command == "render" else run_score
    return exit_code("lora", lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
