"""One model draws picture after picture, errors and cancelled runs in between, and holds no more than before."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumina_core.pipeline import Lumina

from .place import Base
from .soak import soak

DRAWS = 60
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says what a process holds")


@pytest.fixture(scope="module")
def lumina(tmp_path_factory: pytest.TempPathFactory) -> Lumina:
    return Lumina.load(Base.make(tmp_path_factory.mktemp("soak") / "base").checkpoint, device="cpu")


@pytest.mark.slow
def test_nothing_grows(lumina: Lumina) -> None:
    ended = soak(lumina, DRAWS)
    assert ended.drawn and ended.refused and ended.cancelled
    assert not ended.problems()


def test_drawings_that_are_kept_are_noticed(lumina: Lumina) -> None:
    kept: list[object] = []
    assert "resident memory grew" in " ".join(soak(lumina, DRAWS // 2, keep=kept).problems())
