"""Two runs that save to one name at the same time."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumina_core.convert import plan_conversion


def test_two_savers_to_one_name_write_two_files(tmp_path: Path) -> None:
    names = [tmp_path / f"mine_0000{number}_.safetensors" for number in (1, 2, 3)]
    first, second = plan_conversion("demo", "int4"), plan_conversion("demo", "int8")
    others: list[Path] = []

    def on_step() -> None:
        if not others:
            others.append(second.write_new(iter(names)))

    own = first.write_new(iter(names), on_step)
    assert (own, others) == (names[1], [names[0]])
    assert sorted(tmp_path.iterdir()) == names[:2]
    assert own.stat().st_size < others[0].stat().st_size


def test_a_cancel_leaves_nothing(tmp_path: Path) -> None:
    def cancel(values: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plan_conversion("demo", "int4").write_new([tmp_path / "mine.safetensors"], on_chunk=cancel)
    assert list(tmp_path.iterdir()) == []
