"""How near the planner is: python -m benchmarks.memory

Draws 64x64 pictures with the demo in processes of their own, on the CPU in float32, and compares the most memory that
each process held with what was foretold of the run. What was held before counts off: a smaller run, so that PyTorch and
the weights are in.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass

import torch

from lumina_core.checkpoint.find import DEMO_FOLDER
from lumina_core.decoding.settings import DecodeSettings
from lumina_core.device import peak_bytes
from lumina_core.model.load import load_transformer
from lumina_core.pipeline import Request, draw
from lumina_core.planner import Demand, plan_memory, weights_of
from lumina_core.tokens.tokenizer import load_tokenizer
from lumina_core.tokens.vocabulary import Vocabulary

from .own_process import in_own_process

SIDE, PROMPT = 8, (9,) * 40


@dataclass(frozen=True)
class Case:
    """A run."""

    batch: int
    decoder: str = "gumbel"
    window: int = 32
    kv_cache: str = "auto"

    @property
    def request(self) -> Request:
        settings = DecodeSettings(decoder=self.decoder, window_size=self.window, kv_cache=self.kv_cache)
        return Request([PROMPT] * self.batch, SIDE, SIDE, settings=settings)


CASES = (
    Case(96),
    Case(192),
    Case(96, window=64),
    Case(96, "ar"),
    Case(96, "coupled"),
    Case(192, kv_cache="int8"),
)


@dataclass(frozen=True)
class Measured:
    """Bytes that a process grew by, and that were foretold."""

    grown: int
    foretold: int


def measure(case: Case) -> Measured:
    """Runs a case in a process of its own."""
    return Measured(**in_own_process("benchmarks.memory", case))


def run_here(case: Case) -> Measured:
    """Runs a case in this process, which must be a fresh one."""
    device = torch.device("cpu")
    transformer, tokenizer = load_transformer("demo", dtype=torch.float32), load_tokenizer(DEMO_FOLDER)
    vocabulary = Vocabulary.of(tokenizer, transformer.config)
    draw(transformer, vocabulary, Case(1).request)
    before = peak_bytes(device)
    draw(transformer, vocabulary, case.request)
    after = peak_bytes(device)
    assert before is not None and after is not None, "this system does not say what a process holds"
    foretold = plan_memory(Demand(transformer.config, weights_of(transformer), case.request)).run
    return Measured(after - before, foretold)


def main() -> int:
    """Prints a table in Markdown; with a case as JSON, what it measured."""
    if len(sys.argv) > 1:
        print(json.dumps(asdict(run_here(Case(**json.loads(sys.argv[1]))))))
        return 0
    print("| batch | decoder | window | cache | foretold | measured | error |\n|---|---|---|---|---|---|---|")
    for case in CASES:
        found = measure(case)
        print(
            f"| {case.batch} | {case.decoder} | {case.window} | {case.kv_cache} | {found.foretold / 1e6:.0f} MB "
            f"| {found.grown / 1e6:.0f} MB | {found.foretold / found.grown - 1:+.0%} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
