"""A process that runs inputs one after another: a line of JSON in names one, a line out says how it ended."""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
from pathlib import Path

import torch

from .attempts import Attempt
from .cases import CASES
from .kinds import mutated
from .place import Place
from .run import Runner

# No input is to bring the machine down: allocations beyond this fail.
MOST_ADDRESS_BYTES = 12 * 2**30


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESS_BYTES, MOST_ADDRESS_BYTES))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="lumina-fuzz-") as folder:
        runner = Runner(Path(folder))
        for line in sys.stdin:
            named = json.loads(line)
            outcome = runner.run(lambda place: prepare(place, **named))  # noqa: B023
            print(json.dumps(outcome.to_dict()), file=replies, flush=True)


def prepare(place: Place, kind: str, name: str = "", seed: int = 0, index: int = 0) -> Attempt:
    """The case of that name, or the mutation of a kind by its seed and index."""
    return CASES[name] if kind == "case" else mutated(place, kind, seed, index)


if __name__ == "__main__":
    main()
