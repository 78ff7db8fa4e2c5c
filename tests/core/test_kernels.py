"""Triton kernels agree with their references in Triton's interpreter, and build for NVIDIA GPUs; neither needs a GPU.

The interpreter has to be selected before triton is first imported, and a build replaces Triton's driver: so each runs
in a process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..kernel_cases import SMALL

ROOT = Path(__file__).parents[2]
# Bytes of shared memory that a program has on every card from Ampere on: that of the GeForce ones.
SHARED_BYTES = 99 * 1024
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed: no kernel can be interpreted or built"
)


def report_of(module: str, argument: str, timeout: float, **environment: str) -> dict[str, Any]:
    """The JSON of the last line that a module prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-m", module, argument]
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def errors() -> dict[str, float]:
    """Each kernel's error against its reference."""
    return report_of("tests.kernel_cases", "cpu", 600, TRITON_INTERPRET="1")


@pytest.mark.parametrize("case", SMALL)
def test_a_kernel_agrees_with_its_reference(case: str, errors: dict[str, float]) -> None:
    assert errors[case] <= SMALL[case].tolerance


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_every_kernel_builds_and_fits(capability: int, tmp_path: Path) -> None:
    report = report_of("tests.kernel_builds", str(capability), 900, TRITON_CACHE_DIR=str(tmp_path))
    assert report["failed"] == {} and report["built"] > 0
    assert report["shared"] <= SHARED_BYTES
