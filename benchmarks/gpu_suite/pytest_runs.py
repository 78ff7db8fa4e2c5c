"""A run of pytest as figures."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from . import pytest_outcomes

ROOT = Path(__file__).parents[2]
MOST_FAILURES = 30
# Seconds that a stage keeps to report the outcomes.
RESERVE = 3.0
KILLED = "killed"


def run_pytest(path: str, seconds: float, workers: int = 0) -> dict[str, Any]:
    """Runs a test file, with `workers` processes if pytest-xdist is installed; returns counts and failures.

    The run is killed after `seconds`; tests that had ended by then count.
    """
    if importlib.util.find_spec("pytest") is None:
        return {"tests": path, "error": "pytest is not installed"}
    parallel = ["-n", str(workers)] if workers and importlib.util.find_spec("xdist") else []
    with tempfile.TemporaryDirectory() as folder:
        outcomes = Path(folder) / "outcomes.jsonl"
        outcomes.touch()
        options = ["-q", "-p", "no:cacheprovider", "-p", pytest_outcomes.__name__, *parallel]
        # Without the variables of a pytest that runs this one.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        environment[pytest_outcomes.FILE_VARIABLE] = str(outcomes)
        command = [sys.executable, "-m", "pytest", path, *options]
        process = subprocess.Popen(command, cwd=ROOT, stdout=sys.stderr, env=environment)
        try:
            ended: int | str = process.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            ended = KILLED
        return {"tests": path, "exit_code": ended, **_counts(outcomes)}


def failure_of(tests: dict[str, Any], may_skip: bool) -> str:
    """Why a run of tests failed: a test failed, the run was killed, or no test ran; "" if none of these."""
    if tests.get("error"):
        return str(tests["error"])
    if tests["exit_code"] or tests["failed"]:
        return f"{tests['failed']} of {tests['tests']} failed, exit code {tests['exit_code']}"
    return "" if may_skip or tests["passed"] else f"no test of {tests['tests']} ran: {'; '.join(tests['skipped_for'])}"


def _counts(outcomes: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in outcomes.read_text(encoding="utf-8").splitlines()]
    failures = [{"test": line["test"], "error": line["why"]} for line in lines if line["outcome"] == "failed"]
    return {
        **{outcome: sum(line["outcome"] == outcome for line in lines) for outcome in ("passed", "failed", "skipped")},
        "failures": failures[:MOST_FAILURES],
        "skipped_for": sorted({line["why"] for line in lines if line["outcome"] == "skipped"}),
    }
