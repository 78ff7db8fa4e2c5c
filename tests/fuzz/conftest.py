"""Worker processes for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .pool import Pool


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    with Pool(workers=2) as pool:
        yield pool
