"""Canvases: what Split Panels restores."""

from __future__ import annotations

from typing import Any

import pytest
import torch

SIDE, GIVEN = 64, 24


def canvas_of(nodes: Any, **values: Any) -> Any:
    """A canvas whose given pixels are black."""
    codes = torch.zeros(1, GIVEN // 8, SIDE // 8, dtype=torch.int64)
    return nodes("nodes.types").CanvasData(SIDE, SIDE, codes, torch.zeros(1, GIVEN, SIDE, 3), **values)


def whole_of(nodes: Any, canvas: Any, reconstruct: bool) -> Any:
    upper, lower, whole = nodes("nodes.canvas").split(torch.ones(1, SIDE, SIDE, 3), canvas, reconstruct)
    assert torch.equal(torch.cat([upper, lower], 1), whole) and upper.shape[1] == GIVEN
    return whole


def test_the_pixels_of_a_picture_are_restored(nodes: Any) -> None:
    whole = whole_of(nodes, canvas_of(nodes), reconstruct=False)
    assert (whole[:, :GIVEN] == 0).all() and (whole[:, GIVEN:] == 1).all()


@pytest.mark.parametrize("reconstruct", [False, True])
def test_the_view_of_kept_rows_never_replaces_the_decoded_picture(nodes: Any, reconstruct: bool) -> None:
    assert (whole_of(nodes, canvas_of(nodes, is_view=True), reconstruct) == 1).all()


def test_reconstruct_leaves_the_decoded_picture(nodes: Any) -> None:
    assert (whole_of(nodes, canvas_of(nodes), reconstruct=True) == 1).all()
