"""`benchmarks.negative_prompt`: what it counts, and its test."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.negative_prompt import Counts, count, fisher, main
from training.world import Scene, SceneObject, render


def picture(*objects: tuple[str, str]) -> np.ndarray:
    placed = [SceneObject(shape, colour, "large", 8 + 48 * k, 16) for k, (shape, colour) in enumerate(objects)]
    return render(Scene("white", tuple(placed)))


def test_pictures_with_the_colour_and_those_of_the_shape_alone_are_counted() -> None:
    pictures = picture(("circle", "red")), picture(("circle", "blue")), picture(("star", "red"), ("circle", "blue"))
    assert count(pictures, "circle", "red") == Counts(3, coloured=2, right=2)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [((3, 4), (1, 4), 34 / 70), ((5, 5), (0, 5), 2 / 252), ((2, 9), (2, 9), 1.0), ((0, 7), (0, 3), 1.0)],
)
def test_fisher_adds_the_tables_that_are_no_likelier(
    first: tuple[int, int], second: tuple[int, int], expected: float
) -> None:
    assert fisher(first, second) == pytest.approx(expected) == fisher(second, first)


@pytest.mark.slow
def test_the_negative_prompt_is_drawn_with(capsys: pytest.CaptureFixture) -> None:
    """And the shapes stay."""
    assert main(["--pictures", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["without"]["pictures"] == found["with"]["pictures"] == 6 and found["with"]["coloured"] == 0
    assert found["with"]["right"] >= 4 and 0 < found["p_value"] <= 1
