"""Measures the demo anew and writes its tables into docs/results.md: python -m benchmarks.demo_tables [--only NAME ...]

Each table stands between two marks of the page, `<!-- demo: NAME begin -->` and `end`, and is what the command printed
that is named above it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lumina_core.errors import InputError

from .arguments import DEMO_CFG, exit_code
from .whole_numbers import positive

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
CFG = f"{DEMO_CFG:g}"
COMMANDS = {
    "quality": ("benchmarks.quality", "--prompts-per-category", "100"),
    "reconstructions": ("benchmarks.quality", "--prompts-per-category", "50", "--reconstruct"),
    "truth": ("benchmarks.quality", "--prompts-per-category", "100", "--truth"),
    "quality_cfg4": ("benchmarks.quality", "--prompts-per-category", "50", "--cfg", "4"),
    "spread": ("benchmarks.spread",),
    "tasks": ("benchmarks.tasks", "--samples", "50"),
    "decoding": ("benchmarks.decoding",),
    "weights": ("benchmarks.weights",),
    "best_of": ("benchmarks.best_of", "--prompts-per-category", "10"),
    "inpainting": ("benchmarks.inpainting", "--holes-per-category", "15"),
    "negative_prompt": ("benchmarks.negative_prompt", "--cfg", "3", "--pictures", "20"),
    "memory": ("benchmarks.memory",),
}


def marks(name: str) -> tuple[str, str]:
    """The lines around a table."""
    return f"<!-- demo: {name} begin -->", f"<!-- demo: {name} end -->"


def with_table(page: str, name: str, text: str) -> str:
    """The page with what stands between a table's marks replaced. Raises InputError for a page without them."""
    begin, end = marks(name)
    first, last = page.find(begin), page.find(end)
    if not 0 <= first < last:
        raise InputError(f"the page has no lines {begin} and {end}; expected both, in this order")
    return f"{page[: first + len(begin)]}\n{text.strip()}\n{page[last:]}"


def measured(command: Sequence[str], threads: int) -> str:
    """What a command prints, below its own text; a table that is no Markdown as a block of code."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    start = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        env=environment,
        cwd=PAGE.parents[1],
        check=False,
    )
    if result.returncode:
        raise InputError(f"python -m {shlex.join(command)} ended with {result.returncode}: {result.stderr[-500:]}")
    seconds = time.monotonic() - start
    text = result.stdout.strip()
    block = text if text.startswith("|") or "\n|" in text else f"```text\n{text}\n```"
    when = f"`python -m {shlex.join(command)}`, {time.strftime('%-d %B %Y')}, {threads} CPU thread(s), {seconds:.0f} s:"
    return f"{when}\n\n{block}"


def run(options: argparse.Namespace) -> None:
    """Measures and writes one table after the other; what was written stays, should a later one fail."""
    for name in options.only or COMMANDS:
        with_table(options.into.read_text(encoding="utf-8"), name, "")
    for name in options.only or COMMANDS:
        print(f"{name} …", file=sys.stderr, flush=True)
        command = COMMANDS[name]
        if name == "decoding":
            command += ("--plot", os.path.relpath(options.into.with_name("decoding.svg"), PAGE.parents[1]))
        text = measured(command, options.threads)
        page = with_table(options.into.read_text(encoding="utf-8"), name, text)
        options.into.write_text(page, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line: 0, or 2 with one line on stderr for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(COMMANDS), help="only these tables")
    parser.add_argument("--into", type=Path, default=PAGE)
    parser.add_argument("--threads", type=positive, default=1)
    options = parser.parse_args(arguments)
    return exit_code("demo_tables", lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
