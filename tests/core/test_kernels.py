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
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ..kernel_cases import SMALL

ROOT = Path(__file__).parents[2]
# Bytes of shared memory that a program has on every card from Ampere on: that of the GeForce ones.
SHARED_BYTES = 99 * 1024
# A100; GeForce RTX 30, 40; H100; GeForce RTX 50.
CAPABILITIES = (80, 86, 89, 90, 120)
# One of each kind of code: 8.0, 8.9 and 12.0 have the instructions of 8.6, and the last two its tiles too. Of all, what
# takes most of a step is built.
KINDS = (86, 90)
MOST_OF_A_STEP = ("int4, 64 rows, 12288 × 4096", "attention, W 32, int8")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed: no kernel can be interpreted or built"
)


def report_of(module: str, *arguments: str, timeout: float = 900, **environment: str) -> dict[str, Any]:
    """The JSON of the last line that a module prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-m", module, *arguments]
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def errors() -> dict[str, float]:
    """Each kernel's error against its reference."""
    return report_of("tests.kernel_cases", "cpu", TRITON_INTERPRET="1")


@pytest.mark.slow
@pytest.mark.parametrize("case", SMALL)
def test_a_kernel_agrees_with_its_reference(case: str, errors: dict[str, float]) -> None:
    assert errors[case] <= SMALL[case].tolerance


def check_builds(report: dict[str, Any], capabilities: Sequence[int]) -> None:
    assert report["failed"] == {} and report["capabilities"].keys() == {str(each) for each in capabilities}
    for built in report["capabilities"].values():
        assert built["built"] > 0 and built["shared"] <= SHARED_BYTES


@pytest.mark.slow
def test_the_kernels_that_take_most_of_a_step_build_for_every_gpu_and_fit(tmp_path: Path) -> None:
    every = ",".join(map(str, CAPABILITIES))
    check_builds(report_of("tests.kernel_builds", every, *MOST_OF_A_STEP, TRITON_CACHE_DIR=str(tmp_path)), CAPABILITIES)


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Future[dict[str, Any]]]:
    """What every kernel builds to, by compute capability; two processes at a time."""
    cache = str(tmp_path_factory.mktemp("triton"))
    with ThreadPoolExecutor(2) as pool:
        return {
            capability: pool.submit(report_of, "tests.kernel_builds", str(capability), TRITON_CACHE_DIR=cache)
            for capability in KINDS
        }


@pytest.mark.slow
@pytest.mark.parametrize("capability", KINDS)
def test_every_kernel_builds_and_fits(capability: int, builds: dict[int, Future[dict[str, Any]]]) -> None:
    check_builds(builds[capability].result(), [capability])
