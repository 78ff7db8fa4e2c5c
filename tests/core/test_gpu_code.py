"""The matmuls of a window of 32 with guidance stay within what a GPU can hide behind reading the weights."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Instructions a weight at 64 rows, by compute capability; bytes of x that are read for a weight.
MOST_INSTRUCTIONS, MOST_X_BYTES = {90: 3.3, 89: 5.5}, 1.0


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("capability", MOST_INSTRUCTIONS)
def test_instructions_of_the_matmuls(capability: int) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu_code", str(capability), "--only", "matmul, 64 rows"]
    table = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| int")]
    assert [row[0] for row in rows] == ["int4 matmul, 64 rows", "int8 matmul, 64 rows"]
    for name, instructions, x_bytes, *_, spilled, _ in rows:
        assert float(instructions) <= MOST_INSTRUCTIONS[capability], name
        assert float(x_bytes) <= MOST_X_BYTES and spilled == "0 bytes", name
