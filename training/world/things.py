"""Pictures of things, from the font Noto Color Emoji: python -m training.world.things --font NotoColorEmoji.ttf

Writes them to `things.png`, from which everything else is made, so that the font is needed only to choose other things.
The font is under the SIL Open Font License 1.1 (Copyright 2013 Google Inc.).
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .palette import THINGS

FILE = Path(__file__).with_name("things.png")
SIDE, IN_A_ROW = 80, 6
FONT_SIZE, GLYPH = 109, (136, 128)  # The only size of the font's bitmaps.
MARGIN = 1


def write_things(font: Path) -> None:
    """Writes the things' pictures, each in a square of SIDE px, from the font's bitmaps."""
    drawn = ImageFont.truetype(str(font), FONT_SIZE)
    rows = -(-len(THINGS) // IN_A_ROW)
    sheet = Image.new("RGBA", (IN_A_ROW * SIDE, rows * SIDE))
    for number, glyph in enumerate(THINGS.values()):
        picture = Image.new("RGBA", GLYPH)
        ImageDraw.Draw(picture).text((0, 0), glyph, font=drawn, embedded_color=True)
        cut = picture.crop(picture.getbbox())
        scale = SIDE / max(cut.size)
        cut = _resized(cut, (round(cut.width * scale), round(cut.height * scale)))
        left, top = (SIDE - cut.width) // 2, (SIDE - cut.height) // 2
        sheet.paste(cut, (number % IN_A_ROW * SIDE + left, number // IN_A_ROW * SIDE + top))
    sheet.save(FILE, optimize=True)


@cache
def thing_picture(kind: str, side: int) -> np.ndarray:
    """Colours and cover of a thing in a box of `side` px, float32 [side, side, 4]: RGB in 0…255, alpha in 0…1."""
    number = list(THINGS).index(kind)
    left, top = number % IN_A_ROW * SIDE, number // IN_A_ROW * SIDE
    with Image.open(FILE) as sheet:
        whole = sheet.crop((left, top, left + SIDE, top + SIDE))
    inner = _resized(whole, (side - 2 * MARGIN, side - 2 * MARGIN))
    picture = np.zeros((side, side, 4), np.float32)
    picture[MARGIN:-MARGIN, MARGIN:-MARGIN] = np.asarray(inner, np.float32)
    picture[..., 3] /= 255
    picture.flags.writeable = False
    return picture


def _resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resized with colours weighed by their cover, so that clear pixels give no fringe."""
    return picture.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--font", type=Path, required=True)
    write_things(parser.parse_args().font)
