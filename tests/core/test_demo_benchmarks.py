"""The benchmarks of the demo: where objects are drawn, and the tables that are written into a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import demo_tables
from benchmarks.spread import main as spread
from benchmarks.spread import spread_of
from training.world import Scene, SceneObject, render


def test_every_page_has_the_marks_of_every_table() -> None:
    page = demo_tables.PAGE.read_text(encoding="utf-8")
    for name in demo_tables.COMMANDS:
        assert all(page.count(mark) == 1 for mark in demo_tables.marks(name)), name


def test_centres_are_counted_by_cell() -> None:
    cats = [SceneObject("cat", None, "medium", x, y) for x, y in ((8, 0), (8, 0), (64, 64))]
    pictures = [render(Scene("grass", (cat,))) for cat in cats]
    pictures.append(render(Scene("grass", (cats[0], SceneObject("dog", None, "medium", 56, 56)))))
    found = spread_of(pictures, "cat")
    assert (found.pictures, found.right, found.cells) == (4, 3, 2)
    assert found.counts[0, 1] == 3 and found.counts[3, 3] == 1 and found.counts.sum() == 4


def test_a_prompt_of_no_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for prompt in ("a unicorn", "a wildcat", "a cat and a dog"):
        assert spread(["--prompt", prompt]) == 2
        assert repr(prompt) in capsys.readouterr().err


def test_a_table_takes_the_place_of_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "results.md"
    begin, end = demo_tables.marks("one")
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(
        demo_tables, "COMMANDS", {"one": ("benchmarks.quality", "--truth", "--prompts-per-category", "1")}
    )
    assert demo_tables.main(["--into", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{begin}\n`python -m benchmarks.quality --truth --prompts-per-category 1`")
    assert "```text\ncategory" in text and "old" not in text and text.endswith(f"{end}\nafter\n")


def test_a_page_without_marks_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "results.md"
    page.write_text("nothing\n", encoding="utf-8")
    assert demo_tables.main(["--into", str(page), "--only", "spread"]) == 2
    assert page.read_text(encoding="utf-8") == "nothing\n" and "demo: spread begin" in capsys.readouterr().err
