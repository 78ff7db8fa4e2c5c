"""Runs one attempt through the command line in this process, and judges how it ended."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import itertools
import json
import operator
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image
from safetensors import safe_open

from .attempts import Attempt
from .place import Arguments, Base, Place
from .process import Log, call, redirected, resident_bytes, temporary_folder

REFUSED, DRAWN = "refused", "drawn"
SILENT, TRACEBACK, LEFT_BEHIND, SLOW, UNCLEAR, MEMORY = (
    "silent",
    "traceback",
    "left behind",
    "slow",
    "unclear",
    "memory",
)
LONGEST_LINE = 2000
NOT_FOR_USERS = re.compile(r"Traceback|object at 0x|weights_only|[a-z]Error\(|NoneType|please report", re.IGNORECASE)
CODE_RUN, GOOD_REFUSED = "code run", "good refused"
GOOD = (REFUSED, DRAWN)
VERDICTS = (REFUSED, DRAWN, SILENT, TRACEBACK, LEFT_BEHIND, SLOW, MEMORY, UNCLEAR, GOOD_REFUSED, CODE_RUN)


@dataclass(frozen=True)
class Outcome:
    """The verdict on an attempt, why, and what the command said."""

    kind: str
    what: str
    verdict: str
    detail: str = ""
    said: str = ""
    command: str = ""
    seconds: float = 0.0
    grown_bytes: int = 0

    @property
    def is_good(self) -> bool:
        return self.verdict in GOOD

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (None: an exception), what it said, and the files before and after."""

    code: int | None
    out: str
    err: str
    log: str
    error: str
    seconds: float
    grown_bytes: int
    before: dict[str, str]
    after: dict[str, str]
    result: Any = field(repr=False, default=None)


class Runner:
    """Runs attempts one after another in a folder of its own. Results of good commands are kept."""

    def __init__(self, root: Path):
        self.root = root
        self.base = Base.make(root / "base")
        self._references: dict[tuple[str, ...], Any] = {}
        self._set_ghostscript_trap()

    def run(self, prepare: Callable[[Place], Attempt]) -> Outcome:
        """Runs what `prepare` gives for a fresh place, which it may have changed already."""
        place = Place(self.base, self.root / "place")
        attempt = prepare(place)
        arguments = attempt.make(place)
        ended = self._command(place, arguments, attempt.encoding)
        verdict, detail = self._judge(attempt, place, ended)
        return Outcome(
            attempt.kind,
            attempt.what,
            verdict,
            detail,
            said=ended.err[:2000] or ended.error[-2000:],
            command=" ".join(arguments)[:1000],
            seconds=round(ended.seconds, 2),
            grown_bytes=ended.grown_bytes,
        )

    def _judge(self, attempt: Attempt, place: Place, ended: Ended) -> tuple[str, str]:
        new = changed(ended.before, ended.after)
        if place.canary.exists():
            return CODE_RUN, "the canary was made"
        if broken := _broken_limit(attempt, ended):
            return broken
        return self._judge_drawn(attempt, ended, new) if ended.code == 0 else _judge_refused(attempt, ended, new)

    def _judge_drawn(self, attempt: Attempt, ended: Ended, new: list[str]) -> tuple[str, str]:
        expected = attempt.expected
        if not expected.drawn:
            return SILENT, "exit 0; expected a refusal"
        if stray := [name for name in new if not name.startswith("out/") or "/." in name]:
            return LEFT_BEHIND, f"beside the results: {', '.join(stray)}"
        if ended.result is None:
            return SILENT, f"exit 0 and results that are not complete: {new}"
        if expected.reference is not None:
            share = equal_share(ended.result, self._reference(expected.reference), expected.alike)
            if share < (expected.alike or 1.0):
                return SILENT, f"exit 0 and other results than those of the reference ({share:.0%} equal)"
        if lacking := missing_words(expected.log, ended.log):
            return SILENT, f"the log does not match {lacking}: {ended.log[:300]!r}"
        return DRAWN, ""

    def _reference(self, make: Any) -> Any:
        place = Place(self.base, self.root / "place")
        arguments = make(place)
        key = (getattr(make, "__qualname__", ""), place.config.read_text(), *arguments)
        if "<lambda>" in key[0] or key not in self._references:
            ended = self._command(place, arguments, "utf-8")
            assert ended.code == 0 and ended.result is not None, (arguments, ended)
            self._references[key] = ended.result
        return self._references[key]

    def _command(self, place: Place, arguments: Arguments, encoding: str) -> Ended:
        environment = {"FUZZ_CANARY": str(place.canary), **place.environment}
        before = files(place.root)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            log = Log()
            outside = (redirected(out, err, encoding), log.taken(), temporary_folder(place.temporary))
            with contextlib.ExitStack() as stack:
                for manager in (mock.patch.dict(os.environ, environment), *outside):
                    stack.enter_context(manager)
                memory, start = resident_bytes(reset=True), time.perf_counter()
                code, error = call(arguments)
                seconds, grown = time.perf_counter() - start, resident_bytes() - memory
            texts = [file.seek(0) or file.read().decode(encoding, "replace") for file in (out, err)]
        done = result(arguments) if code == 0 else None
        return Ended(code, *texts, log.text, error, seconds, grown, before, files(place.root), done)

    def _set_ghostscript_trap(self) -> None:
        """A Ghostscript that makes the canary: a picture must not start other programs."""
        folder = self.root / "bin"
        folder.mkdir()
        for name in ("gs", "gswin32c", "gswin64c"):
            trap = folder / name
            trap.write_text('#!/bin/sh\necho started > "$FUZZ_CANARY"\nexit 1\n')
            trap.chmod(trap.stat().st_mode | stat.S_IXUSR)
        os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"


def _broken_limit(attempt: Attempt, ended: Ended) -> tuple[str, str] | None:
    if ended.error:
        return (SLOW if "TooSlow" in ended.error else TRACEBACK), ended.error[-600:]
    if ended.grown_bytes > attempt.most_bytes:
        return MEMORY, f"the process grew by {ended.grown_bytes / 2**20:,.0f} MiB"
    return None


def _judge_refused(attempt: Attempt, ended: Ended, new: list[str]) -> tuple[str, str]:
    if ended.code != 2 or ended.out or not one_line(ended.err):
        return TRACEBACK, f"exit {ended.code}, stdout {ended.out[:200]!r}, stderr {ended.err[:400]!r}"
    if new:
        return LEFT_BEHIND, f"after a refusal: {', '.join(new)}"
    if not attempt.expected.refused:
        return GOOD_REFUSED, ended.err.strip()
    if lacking := missing_words(attempt.expected.words, ended.err):
        return UNCLEAR, f"the line does not match {lacking}"
    if found := NOT_FOR_USERS.search(ended.err):
        return UNCLEAR, f"the line says {found[0]!r}"
    if len(ended.err) > LONGEST_LINE:
        return UNCLEAR, f"the line has {len(ended.err):,} characters"
    return REFUSED, ""


def result(arguments: Arguments) -> Any:
    """What a command wrote, to compare; None where it is not complete. The statistics are only looked at."""
    options = {key: Path(value) for key, value in itertools.pairwise(arguments)}  # the last of each
    reads: dict[str, Callable[[Path], Any]] = {
        "--out": tensor_names if arguments[0] == "convert" else pictures,
        "--tokens-out": lambda path: strict_json(path)["tokens"],
        "--stats-out": lambda path: bool(strict_json(path)),
    }
    try:
        return {name: read(options[name]) for name, read in reads.items() if name in options}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def equal_share(result: Any, reference: Any, upper_half: float | None) -> float:
    """1 for equal results, else 0, or the share of equal tokens in the upper half of the first picture."""
    if upper_half is None or result == reference:
        return float(result == reference)
    ours, others = (value["--tokens-out"][0][: len(value["--tokens-out"][0]) // 2] for value in (result, reference))
    return sum(map(operator.eq, ours, others)) / len(others)


def tensor_names(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return sorted(file.keys())


def pictures(path: Path) -> list[str]:
    """Digests of the pixels of one picture, or of those numbered `_k`."""
    numbered = sorted(path.parent.glob(f"{glob.escape(path.stem)}_[0-9]*{path.suffix}"))
    digests = []
    for one in [path] if path.is_file() else numbered:
        with Image.open(one) as picture:
            digests.append(hashlib.sha256(np.asarray(picture).tobytes()).hexdigest())
    if not digests:
        raise FileNotFoundError(path)
    return digests


def strict_json(path: Path) -> Any:
    """The JSON in a file. Raises ValueError for NaN and infinity."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def files(root: Path) -> dict[str, str]:
    """Every file below a folder with its content's digest; hidden ones too. What is no file has its type."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        mode = path.lstat().st_mode
        plain_file = stat.S_ISREG(mode)
        found[name] = hashlib.sha1(path.read_bytes()).hexdigest() if plain_file else f"type {stat.S_IFMT(mode)}"
    return found


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]


def one_line(text: str) -> bool:
    return text.startswith("lumina_core: ") and text.count("\n") == 1 and text.endswith("\n") and "\r" not in text


def missing_words(words: tuple[str, ...], text: str) -> list[str]:
    return [word for word in words if not re.search(word, text, re.IGNORECASE)]
