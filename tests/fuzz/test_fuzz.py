"""600 mutated inputs: each is drawn as it must be, or refused in one line, with nothing left behind."""

from __future__ import annotations

import pytest

from .__main__ import describe
from .kinds import KINDS, all_inputs
from .pool import Pool

INPUTS, SEED = 600, 0
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_inputs(pool: Pool, kind: str) -> None:
    inputs = [named for named in all_inputs(INPUTS, SEED) if named["kind"] == kind]
    failures = [ended for ended in pool.run(inputs) if not ended[1].is_good]
    assert not failures, "".join(describe(*ended) for ended in failures)
