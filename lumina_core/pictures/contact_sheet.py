"""A contact sheet: small pictures with a few lines of text below each."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from PIL import Image, ImageDraw

SIDE = 256
MARGIN, FRAME = 12, 5
FONT_SIZE = 18
BACKGROUND, INK, FRAME_COLOUR = (28, 28, 32), (240, 240, 240), (70, 200, 100)


def contact_sheet(
    pictures: Sequence[Image.Image], captions: Sequence[str], framed: Collection[int] = ()
) -> Image.Image:
    """A sheet of the pictures in rows, in order, a caption below each, a green frame around those of `framed` indices.

    A picture's longer side becomes at most 256 pixels; small pictures grow by whole factors.
    """
    small = [_fitted(picture) for picture in pictures]
    columns = math.ceil(math.sqrt(len(small)))
    rows = math.ceil(len(small) / columns)
    picture_h = max(picture.height for picture in small)
    text_w, text_h = _text_size(captions)
    cell_w, cell_h = max(SIDE, text_w) + MARGIN, picture_h + text_h + 2 * MARGIN
    sheet = Image.new("RGB", (columns * cell_w + MARGIN, rows * cell_h + MARGIN), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    for index, (picture, caption) in enumerate(zip(small, captions, strict=True)):
        x, y = index % columns * cell_w + MARGIN, index // columns * cell_h + MARGIN
        if index in framed:
            right, bottom = x + picture.width, y + picture.height
            pen.rectangle((x - FRAME, y - FRAME, right + FRAME - 1, bottom + FRAME - 1), fill=FRAME_COLOUR)
        sheet.paste(picture, (x, y))
        pen.multiline_text((x, y + picture_h + MARGIN // 2), caption, fill=INK, font_size=FONT_SIZE)
    return sheet


def _fitted(picture: Image.Image) -> Image.Image:
    scale = SIDE / max(picture.size)
    if scale >= 1:
        return picture.resize([side * int(scale) for side in picture.size], Image.Resampling.NEAREST)
    return picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.LANCZOS)


def _text_size(captions: Sequence[str]) -> tuple[int, int]:
    """Width and height of the largest caption, in pixels."""
    pen = ImageDraw.Draw(Image.new("L", (1, 1)))
    boxes = [pen.multiline_textbbox((0, 0), caption, font_size=FONT_SIZE) for caption in captions]
    return math.ceil(max(box[2] for box in boxes)), math.ceil(max(box[3] for box in boxes))
