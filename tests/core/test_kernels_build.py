"""Triton kernels build for NVIDIA GPUs, of which none is needed: what the interpreter takes, the compiler may not."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Bytes that a program may share on every card from Ampere on: that of the GeForce ones.
SHARED_BYTES = 99 * 1024
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed: no kernel can be built"
)


@pytest.mark.parametrize("capability", [80, 90])
def test_every_kernel_builds_and_has_room(capability: int, tmp_path: Path) -> None:
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.kernel_builds", str(capability)]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout.splitlines()[-1])
    assert report["failed"] == {} and report["built"] > 0
    assert report["shared"] <= SHARED_BYTES
