"""The suite's command line (see `benchmarks.gpu_suite`)."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from . import __doc__ as ABOUT
from .report import BadResults, write_report
from .runner import LOG, RESULTS, Suite
from .stages import STAGES, Stage

SECONDS = 540.0
RESULTS_PAGE = Path(__file__).parents[2] / "docs" / "results.md"


class BadInput(Exception):
    """One line on an error in the command line."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(message)


def make_parser() -> Parser:
    parser = Parser(
        prog="benchmarks.gpu_suite", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help=f"folder for {RESULTS} and {LOG}; existing files are appended to")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all stages together")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help=", ".join(stage.name for stage in STAGES))
    parser.add_argument("--dry-run", action="store_true", help="every stage on a CPU, at toy sizes")
    parser.add_argument("--report", type=Path, nargs="+", metavar=RESULTS, help="write the tables of these lines")
    parser.add_argument("--into", type=Path, default=RESULTS_PAGE, help="page for tables (default: docs/results.md)")
    return parser


def chosen(names: Sequence[str] | None) -> list[Stage]:
    """The named stages in their order, or all that are not optional. Raises BadInput for an unknown name."""
    known = [stage.name for stage in STAGES]
    if unknown := [name for name in names or () if name not in known]:
        raise BadInput(f"unknown stage {unknown[0]!r}; expected some of {', '.join(known)}")
    return [stage for stage in STAGES if (stage.name in names if names else not stage.optional)]


def check_out(out: Path | None) -> Path:
    """The folder, created if missing. Raises BadInput if nothing can be written in it."""
    if out is None:
        raise BadInput("--out is missing; name a folder for the results")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in (RESULTS, LOG):
            with open(out / name, "a", encoding="utf-8"):
                pass
    except OSError as error:
        raise BadInput(f"cannot write in {out}: {error.strerror or error}; name another folder with --out") from error
    return out


def check_cuda() -> None:
    """Raises BadInput without a CUDA device."""
    try:
        import torch
    except ImportError as error:
        raise BadInput(f"PyTorch cannot be imported: {error}") from error
    if not torch.cuda.is_available():
        raise BadInput("PyTorch finds no CUDA device; --dry-run runs every stage on a CPU, at toy sizes")


def run(arguments: list[str] | None) -> int:
    start = time.monotonic()
    options = make_parser().parse_args(arguments)
    if options.report:
        print(write_report(options.report, options.into, RESULTS_PAGE))
        return 0
    stages = chosen(options.only)
    if not options.seconds > 0:
        raise BadInput(f"--seconds is {options.seconds:g}; expected more than 0")
    if not options.dry_run:
        check_cuda()
    out = check_out(options.out)
    # Importing PyTorch and finding the device counts too.
    suite = Suite(out, options.seconds - (time.monotonic() - start), options.dry_run)
    return 0 if suite.run(stages) else 1


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns 2 after one line on stderr for bad input."""
    try:
        return run(arguments)
    except (BadInput, BadResults) as error:
        print(f"benchmarks.gpu_suite: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("benchmarks.gpu_suite: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
