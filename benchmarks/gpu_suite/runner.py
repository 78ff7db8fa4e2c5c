"""Runs stages one after another before a deadline and records the outcome of each."""

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
# A stage may take this many times its planned seconds if later stages keep theirs.
STRETCH = 2.0
# With less time left, a stage is skipped.
LEAST_SECONDS = 3.0


@dataclass
class Output:
    """What a stage's process has printed so far: figures, facts of the device, and its own account of how it ended."""

    figures: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    skipped: str = ""
    error: str = ""

    def add(self, line: str) -> None:
        """Adds a line of stdout; ignores what is no JSON object."""
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(values, dict):
            return
        if isinstance(values.get("stage_facts"), dict):
            self.facts = values["stage_facts"]
        elif "stage_skipped" in values:
            self.skipped = str(values["stage_skipped"])
        elif "stage_error" in values:
            self.error = str(values["stage_error"])
        else:
            self.figures.append(values)


@dataclass
class Suite:
    """A run of stages, all within `seconds` of its start."""

    out: Path
    seconds: float
    dry_run: bool = False
    lines: list[dict[str, Any]] = field(default_factory=list)

    def run(self, stages: Sequence[Stage]) -> bool:
        """Runs stages; returns whether all succeeded or were skipped."""
        adopt_orphans()
        end = time.monotonic() + self.seconds
        # Unbuffered, so that nothing is lost when this process is killed.
        with open(self.out / RESULTS, "ab", buffering=0) as results, open(self.out / LOG, "ab", buffering=0) as log:
            for index, stage in enumerate(stages):
                left = end - time.monotonic()
                after = sum(other.seconds for other in stages[index + 1 :])
                line = self._line(stage, limit_of(stage.seconds, left, after), log)
                self.lines.append(line)
                write_line(line, results)
                _print(_summary(line))
                if line.get("error") == INTERRUPTED:
                    raise KeyboardInterrupt
        return all(line["status"] in ("ok", "skipped") for line in self.lines)

    def _line(self, stage: Stage, limit: float, log: IO[bytes]) -> dict[str, Any]:
        """Runs a stage and returns its line."""
        line: dict[str, Any] = {"stage": stage.name, "dry_run": self.dry_run, "date": _now(), "limit": round(limit, 1)}
        if limit < LEAST_SECONDS:
            reason = f"{max(0.0, limit):.1f} s are left of {max(0.0, self.seconds):.0f}"
            return {**line, "status": "skipped", "reason": reason, "seconds": 0.0, "figures": []}
        output, start = Output(), time.monotonic()

        def on_line(text: str) -> None:
            with contextlib.suppress(OSError):  # a full disk costs the log, not the figures
                log.write(f"{text}\n".encode())
            output.add(text)

        on_line(f"\n== {stage.name}, {line['date']}, limit {limit:.0f} s")

        arguments, environment = stage.arguments(self.dry_run, limit), self._environment(stage)
        try:
            with _interrupted_by_signals():
                code = run_limited(arguments, limit, on_line, log, environment)
            status = _status(code, output, limit)
        except KeyboardInterrupt:
            status = {"status": "failed", "error": INTERRUPTED}
        except OSError as error:
            status = {"status": "failed", "error": f"{type(error).__name__}: {error}"}
        seconds = round(time.monotonic() - start, 2)
        # The stage's facts follow its name and cannot replace the values known here.
        return {**line, **output.facts, **line, **status, "seconds": seconds, "figures": output.figures}

    def _environment(self, stage: Stage) -> dict[str, str]:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        environment.pop("TRITON_INTERPRET", None)
        if self.dry_run:
            environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
            if stage.interpreted:
                environment["TRITON_INTERPRET"] = "1"
        return environment


def write_line(line: dict[str, Any], results: IO[bytes]) -> None:
    """Writes a JSON line; prints it if it cannot be written whole, as on a full disk, so that no figure is lost."""
    text = json.dumps(finite(line), allow_nan=False)
    data = f"{text}\n".encode()
    try:
        written = results.write(data)
        if written == len(data):
            return
        # So that the next line is not appended to this one.
        with contextlib.suppress(OSError):
            results.write(b"\n")
        reason = f"only {written} of {len(data)} bytes could be written"
    except OSError as error:
        reason = error.strerror or str(error)
    _print(f"cannot write {RESULTS}: {reason}; the line:\n{text}")


def limit_of(seconds: float, left: float, after: float) -> float:
    """Seconds for a stage: up to twice its planned ones if later stages keep theirs, and at most what is left."""
    return min(left, max(seconds, min(STRETCH * seconds, left - after)))


def _status(code: int | None, output: Output, limit: float) -> dict[str, str]:
    if code is None:
        return {"status": "timed out", "error": f"killed after {limit:.0f} s, with all that it started"}
    if output.skipped:
        return {"status": "skipped", "reason": output.skipped}
    if code == 0 and not output.error:
        return {"status": "ok"}
    return {"status": "failed", "error": output.error or f"{how_ended(code)}; see {LOG}"}


def how_ended(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    known = {one.value: one.name for one in signal.Signals}
    return f"ended by {known.get(-code, f'signal {-code}')}"


def _print(text: str) -> None:
    """Prints to stdout, which its reader may have closed."""
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
    """Turns SIGTERM and SIGHUP, sent when the terminal closes, into KeyboardInterrupt, so that no process is left."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {one: signal.signal(one, interrupt) for one in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
