"""The sheet of pictures: whole pictures in order, readable text, frames."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lumina_core.pictures.contact_sheet import BACKGROUND, FRAME_COLOUR, INK, contact_sheet

COLOURS = ((200, 30, 30), (30, 30, 200), (30, 160, 160), (200, 200, 30), (90, 30, 90))


def sheet_of(size: tuple[int, int], captions: list[str], framed: int = 0) -> np.ndarray:
    pictures = [Image.new("RGB", size, colour) for colour in COLOURS[: len(captions)]]
    return np.asarray(contact_sheet(pictures, captions, range(framed)))


def places_of(sheet: np.ndarray, colour: tuple[int, int, int]) -> tuple[slice, slice]:
    """Rows and columns that hold a colour."""
    rows, columns = np.nonzero((sheet == colour).all(-1))
    return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)


@pytest.mark.parametrize(
    ("size", "shown"), [((64, 64), (256, 256)), ((96, 64), (192, 128)), ((768, 512), (256, 171)), ((1, 1), (256, 256))]
)
def test_pictures_are_whole_in_order_and_of_a_size_to_see(size: tuple[int, int], shown: tuple[int, int]) -> None:
    sheet = sheet_of(size, ["a"] * 5)
    corners = []
    for colour in COLOURS:
        rows, columns = places_of(sheet, colour)
        assert (columns.stop - columns.start, rows.stop - rows.start) == shown
        assert (sheet[rows, columns] == colour).all()
        corners.append((rows.start, columns.start))
    assert corners == sorted(corners) and len({row for row, _ in corners}) == 2


def test_captions_stand_below_their_own_picture_as_readable_lines() -> None:
    sheet = sheet_of((64, 64), ["#0  score 0.875\nlikelihood -2.31", "", "", ""])
    rows, columns = places_of(sheet, COLOURS[0])
    text = (sheet != BACKGROUND).any(-1) & ~np.isin(sheet, COLOURS).all(-1)
    lit_rows, lit_columns = np.nonzero(text)
    assert lit_rows.min() >= rows.stop and lit_columns.min() >= columns.start and lit_columns.max() < columns.stop
    assert (sheet[text].max(0) >= np.array(INK) - 30).all()
    lines = np.diff(np.flatnonzero(np.diff(np.r_[0, text.any(1), 0]))).tolist()
    assert len(lines) == 3 and lines[0] >= 12


def test_a_long_caption_widens_its_cell() -> None:
    wide, narrow = (sheet_of((64, 64), [caption, "b"]) for caption in ("a very long caption " * 4, "a"))
    assert wide.shape[1] > narrow.shape[1]
    assert places_of(wide, COLOURS[1])[1].start > places_of(narrow, COLOURS[1])[1].start


def test_the_first_pictures_are_framed() -> None:
    assert not (sheet_of((64, 64), ["a"] * 4) == FRAME_COLOUR).all(-1).any()
    sheet = sheet_of((64, 64), ["a"] * 4, framed=3)
    for index, colour in enumerate(COLOURS[:4]):
        rows, columns = places_of(sheet, colour)
        above = sheet[rows.start - 1, columns]
        assert (above == (FRAME_COLOUR if index < 3 else BACKGROUND)).all()
