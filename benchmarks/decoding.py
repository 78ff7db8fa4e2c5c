"""Forwards, seconds and score of every decoder against `ar`: python -m benchmarks.decoding [--json FILE] [--plot FILE]

Every prompt is drawn by all of them in turn, one picture at a time, so that they share whatever else the machine does.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from lumina_core.decoding.settings import NEW_DRAFTS, DecodeSettings
from lumina_core.errors import LuminaError
from lumina_core.pipeline import Request, draw
from lumina_core.tokens.prompts import build_prompt
from training.world import CANVAS, CATEGORIES, Sample, fresh_samples, judge, recognise

from .sources import GRID_SIDE, Demo, load_demo, to_pictures

FIXED = "gumbel, fixed window"
DECODERS = ("gumbel", FIXED, "sjd", "coupled")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
WINDOWS = (8, 16, 32, 64)


@dataclass
class Tally:
    """What one setting of the decoder took and gave, over all prompts."""

    decoder: str
    window: int
    new_drafts: str
    forwards: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    same_as_ar: list[bool] = field(default_factory=list)

    @property
    def name(self) -> str:
        """For tables and plots."""
        return self.decoder if self.decoder == "ar" else f"{self.decoder} W={self.window}"


def make_tallies(options: argparse.Namespace) -> list[Tally]:
    """`ar` first, then every decoder, window and way to start a new slot that the options ask for."""
    ways = NEW_DRAFTS if options.new_drafts == "all" else (options.new_drafts,)
    settings = [(decoder, window, way) for decoder in options.decoders for window in options.windows for way in ways]
    return [Tally("ar", 1, ways[0]), *(Tally(*setting) for setting in settings)]


def measure(demo: Demo, samples: Sequence[Sample], tallies: Sequence[Tally], seed: int) -> None:
    """Draws every sample with every setting, the order of the settings turned by one each time."""
    for number, sample in enumerate(samples):
        prompt = demo.tokenizer.encode_prompt(build_prompt("t2i", CANVAS, CANVAS, sample.caption))
        reference = draw_one(demo, prompt, sample, tallies[0], seed + number)
        turn = number % max(1, len(tallies) - 1)
        for tally in (*tallies[1 + turn :], *tallies[1 : 1 + turn]):
            tally.same_as_ar.append(torch.equal(draw_one(demo, prompt, sample, tally, seed + number), reference))
        print(f"\r{number + 1} of {len(samples)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


@torch.inference_mode()
def draw_one(demo: Demo, prompt: list[int], sample: Sample, tally: Tally, seed: int) -> torch.Tensor:
    """Draws one picture, books it in the tally and gives its codes."""
    settings = DecodeSettings(
        seed=seed,
        decoder="gumbel" if tally.decoder == FIXED else tally.decoder,
        window_size=tally.window,
        new_drafts=tally.new_drafts,
        adapt_window=tally.decoder != FIXED,
    )
    start = time.perf_counter()
    result = draw(demo.transformer, demo.vocabulary, Request([prompt], GRID_SIDE, GRID_SIDE, settings=settings))
    tally.seconds.append(time.perf_counter() - start)
    tally.forwards.append(result.nfe)
    device = demo.movqgan.quantize.embedding.weight.device
    picture = to_pictures(demo.movqgan.decode(result.codes.to(device)))[0]
    tally.right.append(judge(sample.spec, recognise(picture)))
    return result.codes


def summary(tallies: Sequence[Tally]) -> list[dict]:
    """Means of every setting, and its ratios to `ar`."""
    return [_summary_of(tally, tallies[0]) for tally in tallies]


def _summary_of(tally: Tally, yardstick: Tally) -> dict:
    forwards, seconds = sum(tally.forwards), sum(tally.seconds)
    pictures = len(tally.forwards)
    return {
        "decoder": tally.decoder,
        "window": tally.window,
        "new_drafts": tally.new_drafts,
        "forwards": forwards / pictures,
        "fewer_forwards": sum(yardstick.forwards) / forwards,
        "seconds": seconds / pictures,
        "faster": sum(yardstick.seconds) / seconds,
        "right": sum(tally.right) / pictures,
        "same_as_ar": sum(tally.same_as_ar) / pictures if tally.same_as_ar else 1.0,
    }


def table(rows: Sequence[dict]) -> str:
    """The summary in Markdown."""
    lines = [
        "| decoder | window | new slots | forwards a picture | fewer | seconds a picture | faster | right | as `ar` |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        "| {decoder} | {window} | {new_drafts} | {forwards:.1f} | {fewer_forwards:.2f}× | {seconds:.3f} | "
        "{faster:.2f}× | {right:.1%} | {same_as_ar:.1%} |".format(**row)
        for row in rows
    ]
    return "\n".join(lines)


def plot(rows: Sequence[dict], path: Path) -> None:
    """How many times fewer forwards and seconds than `ar`, by window, a line each decoder."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    for axis, key, title in zip(axes, ("fewer_forwards", "faster"), ("forwards", "seconds"), strict=True):
        for decoder in DECODERS:
            points = [(row["window"], row[key]) for row in rows if row["decoder"] == decoder]
            axis.plot(*zip(*points, strict=True), marker="o", label=decoder)
        axis.set(xscale="log", xlabel="window", title=f"{title}: times fewer than ar")
        axis.set_xticks(WINDOWS, WINDOWS, minor=False)
        axis.minorticks_off()
        axis.axhline(1, color="grey", linewidth=0.8)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--checkpoint", default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="of the transformer")
    parser.add_argument("--decoders", nargs="+", choices=DECODERS, default=DECODERS)
    parser.add_argument("--windows", nargs="+", type=int, default=WINDOWS)
    parser.add_argument("--new-drafts", choices=(*NEW_DRAFTS, "all"), default=DecodeSettings().new_drafts)
    parser.add_argument("--prompts-per-category", type=int, default=17)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="file for every picture's figures")
    parser.add_argument("--plot", type=Path, help="SVG or PNG of the summary (needs matplotlib)")
    return parser.parse_args(arguments)


def main() -> int:
    """Runs the command line."""
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    try:
        demo, tallies = load_demo(options.checkpoint, options.device, DTYPES[options.dtype]), make_tallies(options)
        samples = [s for name in CATEGORIES for s in fresh_samples(name, options.prompts_per_category, options.seed)]
        warm_up = [Tally(tally.decoder, tally.window, tally.new_drafts) for tally in tallies]
        measure(demo, samples[:1], warm_up, options.seed)
        measure(demo, samples, tallies, options.seed)
    except LuminaError as error:
        print(f"decoding: {error}", file=sys.stderr)
        return 2
    rows = summary(tallies)
    print(table(rows))
    if options.json:
        used = {name: getattr(options, name) for name in ("threads", "device", "dtype", "seed")}
        values = {"torch": torch.__version__, **used, "summary": rows, "pictures": [asdict(t) for t in tallies]}
        options.json.write_text(json.dumps(values) + "\n", "utf-8")
    if options.plot:
        plot(rows, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
