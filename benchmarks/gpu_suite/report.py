"""Writes the suite's results as the GPU tables of docs/results.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from .tables import Line, tables

BEGIN, END = "<!-- gpu_suite: tables begin -->", "<!-- gpu_suite: tables end -->"


class BadResults(Exception):
    """One line on an error in a file of results or in the page for them."""


def write_report(results: Sequence[Path], into: Path, page: Path) -> str:
    """Writes the tables between the marks of the page `into`, or creates it; returns a message.

    Raises BadResults for files that hold no results, a page without the marks, and lines of a dry run for `page`, which
    has figures of GPUs only.
    """
    notes: list[str] = []
    lines = [line for path in results for line in read_lines(path, notes)]
    if into.resolve() == page.resolve() and any(line.get("dry_run") for line in lines):
        raise BadResults(f"{results[0]} holds lines of a dry run, which are no figures for {page.name}; use --into")
    try:
        text = tables(lines)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadResults(
            f"{results[0]} has figures that no table is made for: {type(error).__name__} {error}"
        ) from error
    try:
        into.write_text(_between_marks(into, text), encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadResults(f"cannot write {into}: {getattr(error, 'strerror', None) or error}") from error
    return "; ".join([f"the tables of {len(lines)} lines are in {into}", *notes])


def read_lines(path: Path, notes: list[str]) -> list[Line]:
    """The lines of a file. Raises BadResults for one that holds no results.

    A line that was cut short, as on a full disk, is left out and reported in `notes`.
    """
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadResults(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    lines = []
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            notes.append(f"{path}, line {number} is no JSON and was left out")
            continue
        if not isinstance(line, dict) or not {"stage", "status", "figures"} <= line.keys():
            raise BadResults(f"{path}, line {number} is no result of a stage of the suite")
        lines.append(line)
    if not lines:
        raise BadResults(f"{path} holds no line of a stage")
    return lines


def _between_marks(into: Path, text: str) -> str:
    if not into.exists():
        return f"{BEGIN}\n{text}\n{END}\n"
    before, begin, rest = into.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BadResults(f"{into} has no lines {BEGIN} and {END} between which the tables go")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"
