"""Forwards, seconds and score of every decoder against `ar`: python -m benchmarks.decoding [--json FILE] [--plot FILE]

Each prompt is drawn with every setting in turn, one picture at a time, so that other load on the machine affects all
settings alike.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from lumina_core.decoding.settings import NEW_DRAFTS, DecodeSettings
from lumina_core.pipeline import Lumina
from training.world import CATEGORIES, Sample, fresh_samples, judge, recognise

from .arguments import DEMO_CFG, exit_code
from .sources import caption_request

FIXED = "gumbel, fixed window"
DECODERS = ("gumbel", FIXED, "sjd", "coupled")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
WINDOWS = (8, 16, 32, 64)


@dataclass
class Tally:
    """The measurements of one setting, prompt by prompt."""

    decoder: str
    window: int
    new_drafts: str
    forwards: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    same_as_ar: list[bool] = field(default_factory=list)


def make_tallies(options: argparse.Namespace) -> list[Tally]:
    """`ar` first, then every decoder, window and kind of new drafts that the options name."""
    new_drafts = NEW_DRAFTS if options.new_drafts == "all" else (options.new_drafts,)
    settings = itertools.product(options.decoders, options.windows, new_drafts)
    return [Tally("ar", 1, new_drafts[0]), *(Tally(*setting) for setting in settings)]


def measure(lumina: Lumina, samples: Sequence[Sample], tallies: Sequence[Tally], seed: int) -> None:
    """Draws every sample with every setting; the order of the settings rotates by one from sample to sample."""
    for number, sample in enumerate(samples):
        reference = draw_one(lumina, sample, tallies[0], seed + number)
        turn = number % max(1, len(tallies) - 1)
        for tally in (*tallies[1 + turn :], *tallies[1 : 1 + turn]):
            tally.same_as_ar.append(torch.equal(draw_one(lumina, sample, tally, seed + number), reference))
        print(f"\r{number + 1} of {len(samples)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def draw_one(lumina: Lumina, sample: Sample, tally: Tally, seed: int) -> torch.Tensor:
    """Draws one picture, adds it to the tally and returns its codes."""
    settings = DecodeSettings(
        DEMO_CFG,
        seed=seed,
        decoder="gumbel" if tally.decoder == FIXED else tally.decoder,
        window_size=tally.window,
        new_drafts=tally.new_drafts,
        adapt_window=tally.decoder != FIXED,
    )
    request = caption_request(lumina, [sample.caption], settings)
    start = time.perf_counter()
    result = lumina.sample(request)
    tally.seconds.append(time.perf_counter() - start)
    tally.forwards.append(result.nfe)
    tally.right.append(judge(sample.spec, recognise(np.asarray(lumina.decode(result.codes)[0]))))
    return result.codes


def summary(tallies: Sequence[Tally]) -> list[dict]:
    """Means of every setting, and its ratios to `ar`, the first."""
    return [_summary_of(tally, tallies[0]) for tally in tallies]


def _summary_of(tally: Tally, ar: Tally) -> dict:
    forwards, seconds = sum(tally.forwards), sum(tally.seconds)
    pictures = len(tally.forwards)
    return {
        "decoder": tally.decoder,
        "window": tally.window,
        "new_drafts": tally.new_drafts,
        "forwards": forwards / pictures,
        "fewer_forwards": sum(ar.forwards) / forwards,
        "seconds": seconds / pictures,
        "faster": sum(ar.seconds) / seconds,
        "right": sum(tally.right) / pictures,
        "same_as_ar": sum(tally.same_as_ar) / pictures if tally.same_as_ar else 1.0,
    }


def table(rows: Sequence[dict]) -> str:
    """The summary in Markdown."""
    lines = [
        "| decoder | window | new drafts | forwards a picture | fewer | seconds a picture | faster | right | as `ar` |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        "| {decoder} | {window} | {new_drafts} | {forwards:.1f} | {fewer_forwards:.2f}× | {seconds:.3f} | "
        "{faster:.2f}× | {right:.1%} | {same_as_ar:.1%} |".format(**row)
        for row in rows
    ]
    return "\n".join(lines)


def plot(rows: Sequence[dict], path: Path) -> None:
    """Plots how many times fewer forwards and seconds than `ar` each decoder takes, by window."""
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
    parser.add_argument("--json", type=Path, help="file for the measurements of every picture")
    parser.add_argument("--plot", type=Path, help="SVG or PNG of the summary (needs matplotlib)")
    return parser.parse_args(arguments)


def main() -> int:
    """Runs the command line: 0, or 2 with one line on stderr for bad input."""
    return exit_code("decoding", lambda: run(parse_arguments()))


def run(options: argparse.Namespace) -> None:
    """Measures all settings, prints the summary and writes the files that the options name."""
    torch.set_num_threads(options.threads)
    lumina = Lumina.load(options.checkpoint, device=options.device, dtype=DTYPES[options.dtype])
    samples = [s for name in CATEGORIES for s in fresh_samples(name, options.prompts_per_category, options.seed)]
    tallies = make_tallies(options)
    measure(lumina, samples[:1], make_tallies(options), options.seed)  # warm-up
    measure(lumina, samples, tallies, options.seed)
    rows = summary(tallies)
    print(table(rows))
    if options.json:
        used = {name: getattr(options, name) for name in ("threads", "device", "dtype", "seed")}
        values = {"torch": torch.__version__, **used, "summary": rows, "pictures": [asdict(t) for t in tallies]}
        options.json.write_text(json.dumps(values) + "\n", "utf-8")
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    sys.exit(main())
