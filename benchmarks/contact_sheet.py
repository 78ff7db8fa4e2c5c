"""All pictures of a run on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SHEET_COLUMNS, SHEET_CELL, SHEET_TEXT, ZOOM = 8, 128, 44, 2


@dataclass(frozen=True)
class Captioned:
    """One picture, uint8 [H, 64, 3], with its caption and whether it is right."""

    caption: str
    picture: np.ndarray
    right: bool


def contact_sheet(judged: Sequence[Captioned]) -> Image.Image:
    """All pictures, which are of one size, with their captions; wrong ones have a red frame."""
    rows = -(-len(judged) // SHEET_COLUMNS)
    height = ZOOM * max(len(item.picture) for item in judged)
    cell_w, cell_h = SHEET_CELL + 8, height + SHEET_TEXT
    sheet = Image.new("RGB", (SHEET_COLUMNS * cell_w, rows * cell_h), (225, 225, 240))
    pen = ImageDraw.Draw(sheet)
    for index, item in enumerate(judged):
        x, y = index % SHEET_COLUMNS * cell_w + 4, index // SHEET_COLUMNS * cell_h + 4
        if not item.right:
            pen.rectangle((x - 3, y - 3, x + SHEET_CELL + 2, y + height + 2), fill=(255, 0, 0))
        big = Image.fromarray(item.picture)
        big = big.resize((ZOOM * big.width, ZOOM * big.height), Image.Resampling.NEAREST)
        sheet.paste(big, (x, y))
        pen.text((x, y + height + 3), _wrap(item.caption), fill=(0, 0, 0), font_size=10)
    return sheet


def _wrap(text: str, width: int = 25) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)
