"""Runs stages one after the other before a deadline, and writes down what became of each."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from .context import finite
from .processes import adopt_orphans, run_limited
from .stages import Stage

RESULTS, LOG = "results.jsonl", "log.txt"
INTERRUPTED = "interrupted"
# A stage may take this many times what it is meant to, while those after it keep their time.
STRETCH = 2.0
# With less left, a stage is not begun.
LEAST_SECONDS = 3.0


@dataclass
class Told:
    """What a stage's process has said so far: figures, facts of the device, and how it ended, by its own word."""

    figures: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    skipped: str = ""
    error: str = ""

    def hear(self, line: str) -> None:
        """A line of stdout; what is no JSON object is for the log alone."""
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(said, dict):
            return
        if isinstance(said.get("stage_facts"), dict):
            self.facts = said["stage_facts"]
        elif "stage_skipped" in said:
            self.skipped = str(said["stage_skipped"])
        elif "stage_error" in said:
            self.error = str(said["stage_error"])
        else:
            self.figures.append(said)


@dataclass
class Suite:
    """A run of stages. `seconds` is the deadline of all, from its beginning."""

    out: Path
    seconds: float
    dry_run: bool = False
    lines: list[dict[str, Any]] = field(default_factory=list)

    def run(self, stages: Sequence[Stage]) -> bool:
        """Whether all ended well or were skipped."""
        adopt_orphans()
        end = time.monotonic() + self.seconds
        # Without buffers: what is written is there, whatever ends this process.
        with open(self.out / RESULTS, "ab", buffering=0) as results, open(self.out / LOG, "ab", buffering=0) as log:
            for index, stage in enumerate(stages):
                left = end - time.monotonic()
                after = sum(other.seconds for other in stages[index + 1 :])
                line = self._line(stage, limit_of(stage.seconds, left, after), log)
                self.lines.append(line)
                write_line(line, results)
                _say(_summary(line))
                if line.get("error") == INTERRUPTED:
                    raise KeyboardInterrupt
        return all(line["status"] in ("ok", "skipped") for line in self.lines)

    def _line(self, stage: Stage, limit: float, log: IO[bytes]) -> dict[str, Any]:
        """Runs a stage; its line."""
        line: dict[str, Any] = {"stage": stage.name, "dry_run": self.dry_run, "date": _now(), "limit": round(limit, 1)}
        if limit < LEAST_SECONDS:
            reason = f"{max(0.0, limit):.1f} s are left of {max(0.0, self.seconds):.0f}"
            return {**line, "status": "skipped", "reason": reason, "seconds": 0.0, "figures": []}
        told, start = Told(), time.monotonic()

        def on_line(text: str) -> None:
            with contextlib.suppress(OSError):  # a full disk costs the log, not the figures
                log.write(f"{text}\n".encode())
            told.hear(text)

        on_line(f"\n== {stage.name}, {line['date']}, limit {limit:.0f} s")

        arguments, environment = stage.arguments(self.dry_run, limit), self._environment(stage)
        try:
            with _interrupted_by_signals():
                code = run_limited(arguments, limit, on_line, log, environment)
            status = _status(code, told, limit)
        except KeyboardInterrupt:
            status = {"status": "failed", "error": INTERRUPTED}
        except OSError as error:
            status = {"status": "failed", "error": f"{type(error).__name__}: {error}"}
        seconds = round(time.monotonic() - start, 2)
        # What a stage tells of itself stands behind its name, and in place of nothing that is known here.
        return {**line, **told.facts, **line, **status, "seconds": seconds, "figures": told.figures}

    def _environment(self, stage: Stage) -> dict[str, str]:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        environment.pop("TRITON_INTERPRET", None)
        if self.dry_run:
            environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
            if stage.interpreted:
                environment["TRITON_INTERPRET"] = "1"
        return environment


def write_line(line: dict[str, Any], results: IO[bytes]) -> None:
    """Adds a line of JSON; what cannot be written whole, as on a full disk, is printed, so that no figure is lost."""
    text = json.dumps(finite(line), allow_nan=False)
    data = f"{text}\n".encode()
    try:
        written = results.write(data)
        if written == len(data):
            return
        # The next line is to begin at its beginning.
        with contextlib.suppress(OSError):
            results.write(b"\n")
        reason = f"only {written} of {len(data)} bytes could be written"
    except OSError as error:
        reason = error.strerror or str(error)
    _say(f"cannot write {RESULTS}: {reason}; the line:\n{text}")


def limit_of(seconds: float, left: float, after: float) -> float:
    """What a stage may take: up to twice what it is meant to if those after it keep theirs; what is left at most."""
    return min(left, max(seconds, min(STRETCH * seconds, left - after)))


def _status(code: int | None, told: Told, limit: float) -> dict[str, str]:
    if code is None:
        return {"status": "timed out", "error": f"killed after {limit:.0f} s, with all that it started"}
    if told.skipped:
        return {"status": "skipped", "reason": told.skipped}
    if code == 0 and not told.error:
        return {"status": "ok"}
    return {"status": "failed", "error": told.error or f"{how_ended(code)}; see {LOG}"}


def how_ended(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    known = {one.value: one.name for one in signal.Signals}
    return f"ended by {known.get(-code, f'signal {-code}')}"


def _say(text: str) -> None:
    """On stdout, which whoever reads it may have closed."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


def _summary(line: dict[str, Any]) -> str:
    why = line.get("error") or line.get("reason") or ""
    figures = f"{len(line['figures'])} figures" if line["figures"] else ""
    return f"{line['stage']:15} {line['status']:10} {line['seconds']:7.1f} s  {why or figures}"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@contextlib.contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """SIGTERM, and SIGHUP of a terminal that is gone, as KeyboardInterrupt, so that no process is left."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {one: signal.signal(one, interrupt) for one in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
