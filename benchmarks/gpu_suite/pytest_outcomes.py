"""A plugin of pytest: a JSON line for each test as soon as it has ended, so that a run that is cut short counts too.

The lines go to the file that the environment names; of several processes only the one that starts the others writes.
"""

from __future__ import annotations

import json
import os

import pytest

FILE_VARIABLE = "GPU_SUITE_OUTCOMES"
MESSAGE_LENGTH = 300


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ or (report.when != "call" and report.passed):
        return
    if report.when == "teardown" and report.skipped:
        return
    line = {"test": report.nodeid.rpartition("::")[2], "outcome": report.outcome, "why": _why(report)}
    with open(os.environ[FILE_VARIABLE], "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _why(report: pytest.TestReport) -> str:
    if report.passed:
        return ""
    if isinstance(report.longrepr, tuple):  # of a skip: file, line, reason
        return report.longrepr[2].removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return (crash.message if crash else report.longreprtext)[:MESSAGE_LENGTH]
