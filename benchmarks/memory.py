"""Compares the estimate of memory with what a run takes: python -m benchmarks.memory

Draws 96x96 pictures with the demo on the CPU in float32, each run in its own process, and compares the peak memory of
the process with the estimate. The peak after a smaller run, with PyTorch and the weights loaded, is subtracted.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import dataclass

import torch

from lumina_core.decoding.memory_plan import Demand, plan_memory
from lumina_core.decoding.request import Request
from lumina_core.decoding.settings import DecodeSettings, StepReport
from lumina_core.device import peak_bytes
from lumina_core.memory import weights_of
from lumina_core.model.compile import AUTO
from lumina_core.pipeline import Lumina

from .own_process import in_own_process, measure_named_case

SIDE, PROMPT = 12, (9,) * 40


@dataclass(frozen=True)
class Case:
    """A run; with `forwards` it ends after so many, all of them as wide as the window."""

    batch: int
    decoder: str = "gumbel"
    window: int = 32
    kv_cache: str = "auto"
    forwards: int | None = None

    @property
    def request(self) -> Request:
        settings = DecodeSettings(
            decoder=self.decoder,
            window_size=self.window,
            kv_cache=self.kv_cache,
            adapt_window=self.forwards is None,
        )
        return Request([PROMPT] * self.batch, SIDE, SIDE, settings=settings)

    def stop_when_enough(self, report: StepReport) -> None:
        if report.nfe == self.forwards:
            raise EnoughError


class EnoughError(Exception):
    """Ends a run that has had its forwards."""


CASES = (
    Case(32),
    Case(64),
    Case(32, window=64),
    Case(48, "ar"),
    Case(32, "coupled"),
    Case(64, kv_cache="int8"),
)


@dataclass(frozen=True)
class Measured:
    """Bytes by which a process grew, and the estimate."""

    grown: int
    estimated: int


def measure(case: Case) -> Measured:
    return Measured(**in_own_process("benchmarks.memory", case))


def run_here(case: Case) -> Measured:
    """Runs a case in this process, which must be new."""
    device = torch.device("cpu")
    lumina = Lumina.load("demo", device=device, dtype=torch.float32)
    lumina.sample(Case(1).request)
    before = peak_bytes(device)
    with contextlib.suppress(EnoughError):
        lumina.sample(case.request, case.stop_when_enough)
    after = peak_bytes(device)
    assert before is not None and after is not None, "this system does not report the memory of a process"
    estimated = plan_memory(Demand.on(device, AUTO, lumina.config, weights_of(lumina.transformer), case.request)).run
    return Measured(after - before, estimated)


def main() -> int:
    """Prints a table in Markdown; with a case as JSON, its measurement."""
    if measure_named_case(Case, run_here):
        return 0
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| batch | decoder | window | cache | estimated | measured | error |\n|---|---|---|---|---|---|---|")
    for case in CASES:
        found = measure(case)
        print(
            f"| {case.batch} | {case.decoder} | {case.window} | {case.kv_cache} | {found.estimated / 1e6:.0f} MB "
            f"| {found.grown / 1e6:.0f} MB | {found.estimated / found.grown - 1:+.0%} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
