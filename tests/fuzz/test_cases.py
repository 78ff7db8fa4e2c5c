"""Every named input ends as it should: drawn as it must be, or refused in one line that says what it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .cases import GROUPS
from .pool import Pool
from .run import Outcome

Outcomes = Callable[[str], dict[str, Outcome]]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def outcomes(pool: Pool) -> Outcomes:
    """How the cases of a group ended. A group is run once, when it is first asked for."""
    known: dict[str, dict[str, Outcome]] = {}

    def of(group: str) -> dict[str, Outcome]:
        if group not in known:
            ended = pool.run([{"kind": "case", "name": attempt.what} for attempt in GROUPS[group]])
            known[group] = {outcome.what: outcome for _, outcome in ended}
        return known[group]

    return of


@pytest.mark.parametrize(
    ("group", "name"), [(group, attempt.what) for group, attempts in GROUPS.items() for attempt in attempts]
)
def test_case(outcomes: Outcomes, group: str, name: str) -> None:
    outcome = outcomes(group)[name]
    assert outcome.is_good, f"{outcome.verdict}: {outcome.detail}\n{outcome.said}\n{outcome.command}"


def test_names_are_distinct() -> None:
    names = [attempt.what for attempts in GROUPS.values() for attempt in attempts]
    assert len(names) == len(set(names))
