"""A picture's layout: which index holds what, and grids into token lines and back."""

from __future__ import annotations

import pytest
import torch

from lumina_core.decoding.canvas import Canvas
from lumina_core.errors import InputError
from lumina_core.pictures.sizes import HEADER_LENGTH

from .toys import toy_vocabulary

CANVASES = [(4, 4, 0), (8, 4, 3), (4, 12, 1), (8, 8, 7), (1, 1, 0), (2, 5, 1)]
canvases = pytest.mark.parametrize("canvas", [Canvas(*sides) for sides in CANVASES], ids=str)


@canvases
def test_what_is_drawn_begins_after_the_given_and_ends_with_the_last_code(canvas: Canvas) -> None:
    index = torch.arange(canvas.first, canvas.last + 1)
    ends = canvas.layout.is_end_of_row(index)
    assert len(index) == canvas.tokens_left
    assert int((~ends).sum()) == (canvas.grid_h - canvas.given_rows) * canvas.grid_w
    assert not ends[0] and not ends[-1] and canvas.layout.is_end_of_row(torch.tensor(canvas.last + 1))


@pytest.mark.parametrize(("grid_h", "grid_w"), [(4, 4), (8, 4), (4, 12)])
def test_ends_of_row_stand_where_the_vocabulary_forces_them(grid_h: int, grid_w: int) -> None:
    vocabulary, canvas = toy_vocabulary(16), Canvas(grid_h, grid_w)
    tokens = torch.tensor(vocabulary.picture_tokens(torch.zeros(grid_h, grid_w, dtype=torch.int64)))
    index = torch.arange(HEADER_LENGTH, canvas.last + 2)
    assert torch.equal(canvas.layout.is_end_of_row(index), tokens[index] == vocabulary.end_of_row)


@canvases
def test_grids_survive_the_way_to_lines_and_back(canvas: Canvas) -> None:
    grid = torch.arange(1, 2 * canvas.grid_h * canvas.grid_w + 1).view(2, canvas.grid_h, canvas.grid_w)
    line = canvas.place_codes(grid, canvas.last + 9)
    assert line.shape == (2, canvas.last + 9)
    assert torch.equal(canvas.cut_codes(line), grid)
    assert torch.equal(line[line > 0], grid.flatten())


@canvases
def test_given_rows_lie_before_what_is_drawn(canvas: Canvas) -> None:
    given = torch.ones(1, canvas.given_rows, canvas.grid_w, dtype=torch.int64)
    line = canvas.place_codes(given, canvas.last + 9)
    assert int(line[:, : canvas.first].sum()) == given.numel() and not line[:, canvas.first :].any()


@canvases
def test_codes_are_counted_without_ends_of_row(canvas: Canvas) -> None:
    index = torch.arange(HEADER_LENGTH, canvas.last + 2)
    counted = [canvas.count_codes(int(i)) for i in index]
    before = (~canvas.layout.is_end_of_row(index)).cumsum(0) - (~canvas.layout.is_end_of_row(index)).long()
    assert counted == before.tolist() and counted[-1] == canvas.grid_h * canvas.grid_w
    codes = [int(i) for i in index[~canvas.layout.is_end_of_row(index)]]
    assert [canvas.code_index(code) for code in range(len(codes))] == codes


@pytest.mark.parametrize("given_rows", [-1, 4, 5])
def test_a_row_must_be_left_to_draw(given_rows: int) -> None:
    with pytest.raises(InputError, match=f"{given_rows} rows are given; expected at most 3 of 4"):
        Canvas(4, 4, given_rows)


def test_accept_lengths_are_the_tokens_of_each_forward() -> None:
    canvas = Canvas(2, 2)
    steps = torch.full((2, canvas.last + 3), -1)
    steps[:, canvas.first : canvas.last + 1] = torch.tensor([[0, 1, 1, 1, 2], [0, 1, 2, 3, 4]])
    assert canvas.accept_lengths(steps) == ((3, 1), (1, 1, 1, 1))
