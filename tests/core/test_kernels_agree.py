"""Triton kernels give what their twins give, in Triton's interpreter on the CPU.

The interpreter has to be asked for before triton is first imported, by whomever: so the cases run in a process of their
own, all in one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..kernel_cases import SMALL

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed: no kernel can be interpreted"
)


@pytest.fixture(scope="module")
def differences() -> dict[str, float]:
    """How far each kernel is off its twin."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.kernel_cases", "cpu"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stderr
    found: dict[str, float] = json.loads(run.stdout)
    return found


@pytest.mark.parametrize("case", SMALL)
def test_kernel_gives_what_its_twin_gives(case: str, differences: dict[str, float]) -> None:
    assert differences[case] <= SMALL[case].tolerance
