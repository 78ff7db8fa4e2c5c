"""600 mutated inputs: each is drawn as it must be, or refused in one line, with nothing left behind."""

from __future__ import annotations

import pytest

from .__main__ import describe
from .kinds import KINDS, all_inputs
from .pool import Pool

INPUTS, SEED = 600, 0


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_inputs(pool: Pool, kind: str) -> None:
    inputs = [named for named in all_inputs(INPUTS, SEED) if named["kind"] == kind]
    outcomes = pool.run(inputs)
    failures = [pair for pair in zip(inputs, outcomes, strict=True) if not pair[1].is_good]
    assert not failures, "".join(describe(*pair) for pair in failures)
