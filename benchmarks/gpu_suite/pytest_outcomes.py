"""A pytest plugin: writes a JSON line for each test when it ends, so that a run that is cut short counts too.

The lines go to the file that the environment names; workers of pytest-xdist do not write.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

FILE_VARIABLE = "GPU_SUITE_OUTCOMES"
MESSAGE_LENGTH = 300


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ or (report.when != "call" and report.passed):
        return
    if report.when == "teardown" and report.skipped:
        return
    _write(report.nodeid.rpartition("::")[2], report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file that cannot be collected is a failure too."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        _write(report.nodeid, report)


def _write(name: str, report: pytest.TestReport | pytest.CollectReport) -> None:
    line = {"test": name, "outcome": report.outcome, "why": _why(report)}
    with open(os.environ[FILE_VARIABLE], "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _why(report: pytest.TestReport | pytest.CollectReport) -> str:
    if report.passed:
        return ""
    if isinstance(report.longrepr, tuple):  # of a skip: file, line, reason
        return report.longrepr[2].removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return crash.message[:MESSAGE_LENGTH] if crash else report.longreprtext[-MESSAGE_LENGTH:]
