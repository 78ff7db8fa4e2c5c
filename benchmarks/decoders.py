"""Forwards of every decoder on a law of high entropy: python -m benchmarks.decoders [--json FILE] [--plot FILE]

The law is that of `calibrated_law`: the real engine with constructed weights. Forwards are exact; seconds are those of
a very small model on this CPU. `ar` needs one forward a token after the first. What the forwards would take with the 7B
on a GPU is arithmetic, not measured: see COSTS.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from lumina_core.decoding.canvas import Canvas
from lumina_core.decoding.settings import DECODERS, NEW_DRAFTS, DecodeResult, DecodeSettings
from lumina_core.errors import InputError
from lumina_core.files.output_files import check_outputs, check_picture_suffix
from lumina_core.model.transformer import Transformer

from .arguments import exit_code
from .calibrated_law import CALIBRATIONS, GRID_W, MAX_GRID_H, draw_law, law_settings, make_transformer
from .whole_numbers import natural, positive

AR = "ar"
FIELDS = ("decoder", "window_size", "new_drafts", "tree")


@dataclass(frozen=True)
class Cost:
    """Milliseconds of a step of the 7B in int4 with an int8 cache and guidance, half of 768×768 drawn: an estimate.

    From the instructions of the compiled kernels and the bytes that they read (6.1 GB): 3.6 ms at W = 1 and 4.1 ms at
    W = 32 on an H100, 7.5 and 10 ms on an RTX 4090. `row` is one more token in one branch; most of it overlaps reading.
    """

    fixed: float
    row: float

    def step(self, slots: int) -> float:
        """A step of so many tokens in each of two branches."""
        return self.fixed + 2 * slots * self.row


COSTS = {"H100": Cost(3.6, 0.008), "RTX 4090": Cost(7.4, 0.04)}


@dataclass
class Tally:
    """The measurements of one calibration and setting, picture by picture; `nats` are means a code."""

    calibration: str
    settings: DecodeSettings
    forwards: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)
    same_as_ar: list[bool] = field(default_factory=list)

    def add(self, result: DecodeResult, reference: DecodeResult | None) -> None:
        """Adds a picture; `reference` is that of `ar` with the same seed, if it was drawn."""
        self.forwards.append(result.nfe)
        self.seconds.append(result.seconds)
        self.nats.append(-result.log_likelihood_per_code[0])
        if reference is not None:
            self.same_as_ar.append(torch.equal(result.codes, reference.codes))


def make_settings(options: argparse.Namespace) -> list[DecodeSettings]:
    """All combinations of the options' values, one list for each of FIELDS; `ar` is not among them."""
    values = {
        "decoder": [decoder for decoder in options.decoders if decoder != AR],
        "window_size": options.windows,
        "new_drafts": options.new_drafts,
        "tree": options.trees,
    }
    combinations = [dict(zip(FIELDS, chosen, strict=True)) for chosen in itertools.product(*map(values.get, FIELDS))]
    return list(dict.fromkeys(law_settings(**_supported(fields)) for fields in combinations))


def _supported(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields without a tree where the decoder has none."""
    has_tree = fields["decoder"] == "gumbel" and fields["window_size"] > 1
    return fields if has_tree else {**fields, "tree": 0}


def measure(options: argparse.Namespace) -> list[Tally]:
    """Draws every picture with every setting; `ar` is the first of a calibration unless it is left out."""
    tallies = []
    for name in dict.fromkeys(options.calibrations):
        model = make_transformer(CALIBRATIONS[name])
        of_law = [Tally(name, settings) for settings in make_settings(options)]
        ar = None if options.no_ar else Tally(name, law_settings(decoder=AR, tree=0))
        for number in range(options.pictures):
            draw_picture(model, of_law, ar, options.seed + number, options.rows)
            print(f"\r{name}: {number + 1} of {options.pictures}", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        tallies += of_law if ar is None else [ar, *of_law]
    return tallies


def draw_picture(model: Transformer, tallies: Sequence[Tally], ar: Tally | None, seed: int, rows: int) -> None:
    """Draws the picture of a seed with every setting."""
    reference = None
    if ar is not None:
        reference = draw_law(model, ar.settings, seed, rows)
        ar.add(reference, reference)
    for tally in tallies:
        tally.add(draw_law(model, tally.settings, seed, rows), reference)


def summary(tallies: Sequence[Tally], rows: int) -> list[dict]:
    """Means of every setting, with the standard error over pictures of how many times fewer forwards it needs."""
    return [_summary_of(tally, Canvas(rows, GRID_W).tokens_left - 1) for tally in tallies]


def _summary_of(tally: Tally, ar_forwards: int) -> dict:
    fewer, forwards = [ar_forwards / count for count in tally.forwards], statistics.mean(tally.forwards)
    compared = tally.settings.decoder in (AR, "gumbel") and bool(tally.same_as_ar)
    return {
        "calibration": tally.calibration,
        **{name: getattr(tally.settings, name) for name in FIELDS},
        "window_size": tally.settings.width,
        "nats": statistics.mean(tally.nats),
        "forwards": forwards,
        "fewer_forwards": statistics.mean(fewer),
        "standard_error": statistics.stdev(fewer) / len(fewer) ** 0.5 if len(fewer) > 1 else None,
        "tokens_per_forward": ar_forwards / forwards,
        "seconds": statistics.mean(tally.seconds),
        "milliseconds_per_forward": 1000 * sum(tally.seconds) / sum(tally.forwards),
        "same_as_ar": statistics.mean(tally.same_as_ar) if compared else None,
        "tokens_per_second": {
            name: 1000 * ar_forwards / forwards / cost.step(tally.settings.slots) for name, cost in COSTS.items()
        },
    }


def table(rows: Sequence[dict]) -> str:
    """The summary in Markdown."""
    lines = [
        "| calibration | decoder | window | new drafts | tree | nats a code | forwards | times fewer than `ar` | "
        f"seconds a picture | ms a forward | as `ar` | {' | '.join(f'tokens/s, {name}' for name in COSTS)} |",
        "|" + "---|" * (11 + len(COSTS)),
    ]
    return "\n".join(lines + [_line(row) for row in rows])


def _line(row: dict) -> str:
    error = "" if row["standard_error"] is None else f" ± {row['standard_error']:.2f}"
    same = "" if row["same_as_ar"] is None else f"{row['same_as_ar']:.0%}"
    speeds = " | ".join(f"{speed:.0f}" for speed in row["tokens_per_second"].values())
    return (
        "| {calibration} | {decoder} | {window_size} | {new_drafts} | {tree} | {nats:.2f} | {forwards:.0f} | "
        "{fewer_forwards:.2f}{error} | {seconds:.1f} | {milliseconds_per_forward:.1f} | {same} | {speeds} |"
    ).format(**row, error=error, same=same, speeds=speeds)


def plot(rows: Sequence[dict], path: Path) -> None:
    """Plots how many times fewer forwards than `ar` each setting needs by window, a panel a calibration."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["calibration"] for row in rows))
    figure, axes = pyplot.subplots(1, len(names), figsize=(4.5 * len(names), 3.4), squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], names, strict=True):
        _plot_panel(axis, [row for row in rows if row["calibration"] == name and row["decoder"] != AR])
        axis.set(xlabel="window", title=f"{name}: times fewer forwards than ar")
    figure.savefig(path)


def _plot_panel(axis: Any, rows: Sequence[dict]) -> None:
    lines: dict[str, list[dict]] = {}
    for row in rows:
        lines.setdefault(_label(row, rows), []).append(row)
    for label, points in lines.items():
        values = [[row[key] for row in points] for key in ("window_size", "fewer_forwards")]
        axis.errorbar(*values, yerr=[row["standard_error"] or 0 for row in points], marker="o", label=label)
    windows = sorted({row["window_size"] for row in rows})
    axis.set_xscale("log")
    axis.set_xticks(windows, windows, minor=False)
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    if lines:
        axis.legend()


def _label(row: dict, rows: Sequence[dict]) -> str:
    """The decoder, and what else differs among the rows."""
    others = (name for name in FIELDS if name not in ("decoder", "window_size"))
    differ = [name for name in others if len({other[name] for other in rows}) > 1]
    return ", ".join([row["decoder"], *(f"{name.replace('_', ' ')} {row[name]}" for name in differ)])


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--calibrations", nargs="+", choices=CALIBRATIONS, default=list(CALIBRATIONS))
    parser.add_argument("--decoders", nargs="+", choices=DECODERS, default=["gumbel", "sjd", "coupled"])
    parser.add_argument("--windows", nargs="+", type=int, default=[8, 16, 32, 64])
    parser.add_argument("--new-drafts", nargs="+", choices=NEW_DRAFTS, default=[DecodeSettings().new_drafts])
    parser.add_argument("--trees", nargs="+", type=int, default=[0, 16, 32], help="nodes of the draft tree, for gumbel")
    parser.add_argument("--rows", type=positive, default=32, help=f"of {GRID_W} codes; a whole picture has 96")
    parser.add_argument("--pictures", type=positive, default=3)
    parser.add_argument("--no-ar", action="store_true", help="draw no picture by ar")
    parser.add_argument("--seed", type=natural, default=0)
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="file for the measurements of every picture")
    parser.add_argument("--plot", type=Path, help="SVG or PNG of the summary (needs matplotlib)")
    return parser.parse_args(arguments)


def check(options: argparse.Namespace) -> None:
    """Raises InputError for options that cannot be measured."""
    if options.rows > MAX_GRID_H:
        raise InputError(f"rows is {options.rows}; expected at most {MAX_GRID_H}")
    if options.no_ar and not make_settings(options):
        raise InputError("the only decoder is ar, and --no-ar leaves it out; expected another decoder")
    check_outputs([path for path in (options.json, options.plot) if path is not None])
    if options.plot is not None and options.plot.suffix.lower() != ".svg":
        check_picture_suffix(options.plot)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line: 0, or 2 with one line on stderr for bad input."""
    return exit_code("decoders", lambda: run(parse_arguments(arguments)))


def run(options: argparse.Namespace) -> None:
    """Measures all settings, prints the summary and writes the files that the options name."""
    check(options)
    torch.set_num_threads(options.threads)
    tallies = measure(options)
    rows = summary(tallies, options.rows)
    print(table(rows))
    if options.json:
        used = {name: getattr(options, name) for name in ("rows", "pictures", "seed", "threads")}
        values = {"torch": torch.__version__, **used, "summary": rows, "pictures": [asdict(tally) for tally in tallies]}
        options.json.write_text(json.dumps(values) + "\n", "utf-8")
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    sys.exit(main())
