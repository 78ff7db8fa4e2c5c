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


def drawn_on(nodes: Any, pictures: int, each: int = 1) -> tuple[torch.Tensor, Any]:
    """Decoded pictures, `each` for every picture of a canvas of noise: its top with noise on it, and a grey rest."""
    generator = torch.Generator().manual_seed(0)
    tops = torch.rand(pictures, GIVEN, SIDE, 3, generator=generator)
    codes = torch.zeros(pictures, GIVEN // 8, SIDE // 8, dtype=torch.int64)
    image = torch.full((pictures * each, SIDE, SIDE, 3), 0.5)
    decoded = tops.repeat_interleave(each, 0)
    image[:, :GIVEN] = (decoded + 0.1 * torch.randn(decoded.shape, generator=generator)).clamp(0, 1)
    return image, nodes("nodes.types").CanvasData(SIDE, SIDE, codes, tops, panels=2)


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 0, 3], [2, 2, 1, 1], [4]])
def test_each_picture_has_its_own_top_in_whatever_order_it_was_chosen(nodes: Any, order: list[int]) -> None:
    image, canvas = drawn_on(nodes, 3, each=2)
    upper, _, _ = nodes("nodes.canvas").split(image[order], canvas, reconstruct=False)
    assert torch.equal(upper, canvas.pixels[[index // 2 for index in order]])


def test_tops_that_are_alike_are_restored_in_the_order_of_the_sampler(nodes: Any) -> None:
    """What was decoded does not tell them apart."""
    image, canvas = drawn_on(nodes, 1, each=4)
    alike = nodes("nodes.types").CanvasData(
        SIDE, SIDE, canvas.codes.repeat(4, 1, 1), canvas.pixels + 0.001 * torch.arange(4).view(4, 1, 1, 1), panels=2
    )
    upper, _, _ = nodes("nodes.canvas").split(image, alike, reconstruct=False)
    assert torch.equal(upper, alike.pixels)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grey_and_rgba_pictures_are_split_too(nodes: Any, channels: int) -> None:
    canvas = canvas_of(nodes)
    upper, lower, _ = nodes("nodes.canvas").split(torch.ones(1, SIDE, SIDE, channels), canvas, reconstruct=False)
    assert upper.shape == (1, GIVEN, SIDE, 3) and (lower == 1).all()


@pytest.mark.parametrize("shape", [(1, SIDE, SIDE), (1, SIDE, SIDE, 2)])
def test_what_is_no_picture_is_refused(nodes: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(nodes("lumina_core.errors").InputError, match="the picture has shape"):
        nodes("nodes.canvas").split(torch.ones(shape), None, reconstruct=False)
