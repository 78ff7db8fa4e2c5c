"""A run of pytest as figures."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MESSAGE_LENGTH, MOST_FAILURES = 300, 30


def run_pytest(path: str, workers: int = 0) -> dict[str, Any]:
    """Counts of a test file's tests, and each failure; by several processes where pytest-xdist is installed."""
    if importlib.util.find_spec("pytest") is None:
        return {"tests": path, "error": "pytest is not installed"}
    parallel = ["-n", str(workers)] if workers and importlib.util.find_spec("xdist") else []
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}", *parallel]
        command = [sys.executable, "-m", "pytest", path, *options]
        code = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False).returncode
        if not report.exists():
            return {"tests": path, "error": f"pytest ended with exit code {code} and no report"}
        return {"tests": path, "exit_code": code, **_read(report)}


def _read(report: Path) -> dict[str, Any]:
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    failures, reasons = [], set()
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        wrong = next((part for part in case if part.tag in ("failure", "error")), None)
        skipped = case.find("skipped")
        if wrong is not None:
            counts["failed"] += 1
            failures.append({"test": case.get("name", ""), "error": wrong.get("message", "")[:MESSAGE_LENGTH]})
        elif skipped is not None:
            counts["skipped"] += 1
            reasons.add(skipped.get("message", ""))
        else:
            counts["passed"] += 1
    return {**counts, "failures": failures[:MOST_FAILURES], "skipped_for": sorted(reasons)}
