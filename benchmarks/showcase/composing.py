"""Lays small pictures out: the sheet of the README, the cards of the examples, and files within their limits."""

from __future__ import annotations

import cmath
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from lumina_core.errors import InputError

Colour = tuple[int, int, int]
FONTS = {False: "DejaVuSans.ttf", True: "DejaVuSans-Bold.ttf"}
FINER = 4  # Arrows are drawn so much larger, then reduced.
DART = ((-0.7, -0.7), (0.95, 0.0), (-0.7, 0.7), (-0.35, 0.0))  # Within a circle around its centre.
QUALITIES = range(94, 9, -6)


def enlarged(picture: Image.Image, width: int) -> Image.Image:
    """A picture in another width: by a whole factor with sharp pixels, then reduced where it is now too wide."""
    factor = math.ceil(width / picture.width)
    whole = picture.convert("RGB").resize([factor * side for side in picture.size], Image.Resampling.NEAREST)
    return whole.resize((width, round(width * picture.height / picture.width)), Image.Resampling.BOX)


def paste_arrow(page: Image.Image, x: float, y: float, side: int, colour: Colour, angle: float = 0.0) -> None:
    """An arrowhead with its centre at (x, y) that points to the right, or turned by an angle, in degrees clockwise."""
    middle, turn = FINER * side / 2, cmath.exp(1j * math.radians(angle))
    corners = [middle * (1 + 1j) + middle * turn * complex(*corner) for corner in DART]
    mask = Image.new("L", (FINER * side, FINER * side))
    ImageDraw.Draw(mask).polygon([(corner.real, corner.imag) for corner in corners], 255)
    mask = mask.resize((side, side), Image.Resampling.LANCZOS)
    page.paste(Image.new("RGB", mask.size, colour), (round(x - side / 2), round(y - side / 2)), mask)


def paste_framed(page: Image.Image, picture: Image.Image, x: int, y: int, line: Colour, thick: int = 1) -> None:
    """A picture with a line around it, which lies outside of it."""
    box = (x - thick, y - thick, x + picture.width + thick - 1, y + picture.height + thick - 1)
    ImageDraw.Draw(page).rectangle(box, outline=line, width=thick)
    page.paste(picture, (x, y))


# The sheet of the README

PAPER, TITLE_INK, INK, LINE, SHEET_ARROW = (251, 251, 253), (28, 32, 48), (64, 70, 88), (196, 200, 212), (52, 152, 219)
SHOWN_WIDTH = 288
MARGIN, GAP, SECTION_GAP, ROW_GAP = 34, 26, 54, 30
TITLE_SIZE, TITLE_HEIGHT, CAPTION_SIZE, CAPTION_GAP, LINE_HEIGHT, LINES = 33, 58, 24, 12, 31, 3


@dataclass(frozen=True)
class Captioned:
    """A picture and the text below it."""

    picture: Image.Image
    caption: str


@dataclass(frozen=True)
class Section:
    """Pictures below a title, side by side; with `arrows`, each was made from the one before it."""

    title: str
    shown: tuple[Captioned, ...]
    arrows: bool = False

    @property
    def width(self) -> int:
        return len(self.shown) * (SHOWN_WIDTH + GAP) - GAP


def sheet(rows: Sequence[Sequence[Section]]) -> Image.Image:
    """A light page of sections in rows. Its square pictures are enlarged by a whole factor, pixel by pixel."""
    width = max(sum(one.width + SECTION_GAP for one in row) - SECTION_GAP for row in rows)
    row_height = TITLE_HEIGHT + SHOWN_WIDTH + CAPTION_GAP + LINES * LINE_HEIGHT
    page = Image.new("RGB", (width + 2 * MARGIN, len(rows) * (row_height + ROW_GAP) - ROW_GAP + 2 * MARGIN), PAPER)
    for number, row in enumerate(rows):
        x = MARGIN
        for section in row:
            _paste_section(page, section, x, MARGIN + number * (row_height + ROW_GAP))
            x += section.width + SECTION_GAP
    return page


def _paste_section(page: Image.Image, section: Section, x: int, y: int) -> None:
    pen = ImageDraw.Draw(page)
    pen.text((x, y), section.title, TITLE_INK, font(TITLE_SIZE, bold=True))
    y += TITLE_HEIGHT
    for number, one in enumerate(section.shown):
        left = x + number * (SHOWN_WIDTH + GAP)
        paste_framed(page, enlarged(one.picture, SHOWN_WIDTH), left, y, LINE)
        if section.arrows and number:
            paste_arrow(page, left - GAP / 2, y + SHOWN_WIDTH / 2, GAP - 6, SHEET_ARROW)
        middle, top = left + SHOWN_WIDTH / 2, y + SHOWN_WIDTH + CAPTION_GAP
        for place, line in enumerate(wrapped(one.caption, SHOWN_WIDTH + GAP // 2)):
            pen.text((middle, top + place * LINE_HEIGHT), line, INK, font(CAPTION_SIZE), anchor="ma")


def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans where the system has it, else Pillow's own font."""
    try:
        return ImageFont.truetype(FONTS[bold], size)
    except OSError:
        return ImageFont.load_default(size)


def wrapped(text: str, width: int) -> list[str]:
    """A caption in lines of about equal length, none wider than this (px) if its words allow it."""
    measure = font(CAPTION_SIZE)
    lines = _filled(text, width, measure)
    for narrower in range(width, width // 2, -4):
        closer = _filled(text, narrower, measure)
        if len(closer) > len(lines):
            break
        lines = closer
    return lines


def _filled(text: str, width: int, measure: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and measure.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


# The cards of the examples

CARD = 600
DARK, CARD_LINE, CARD_ARROW, CHOSEN = (42, 48, 64), (108, 116, 138), (110, 190, 245), (96, 220, 110)
CARD_MARGIN, CARD_GAP, THIN_GAP, ARROW = 18, 40, 10, 28
WHITE, BUBBLE_LINE = (255, 255, 255), 3
# Circles: left, top and diameter.
BUBBLE = ((0, 30, 62), (36, 0, 74), (92, 26, 68), (30, 44, 74), (78, 48, 62), (16, 118, 24), (2, 146, 14))


def card_of_one(pictures: Sequence[Image.Image]) -> Image.Image:
    """One picture, large."""
    (picture,) = pictures
    card, side = _blank(), 5 * CARD // 6
    paste_framed(card, enlarged(picture, side), (CARD - side) // 2, (CARD - side) // 2, CARD_LINE, 2)
    return card


def card_of_thought(pictures: Sequence[Image.Image]) -> Image.Image:
    """One picture with a thought bubble."""
    (picture,) = pictures
    card, side = _blank(), 4 * CARD // 5
    paste_framed(card, enlarged(picture, side), 30, CARD - side - 30, CARD_LINE, 2)
    _paste_bubble(card, CARD - 190, 26)
    return card


def card_of_steps(pictures: Sequence[Image.Image]) -> Image.Image:
    """Two pictures a row; in each row an arrow leads from the first to the second."""
    return _card_of_pairs(pictures, arrows=True)


def card_of_turns(pictures: Sequence[Image.Image]) -> Image.Image:
    """Four pictures, each made from the one before it."""
    card = _card_of_pairs(pictures, arrows=True)
    paste_arrow(card, CARD / 2, CARD / 2, ARROW, CARD_ARROW, angle=135)
    return card


def card_of_pair(pictures: Sequence[Image.Image]) -> Image.Image:
    """Two pictures that belong together, with a plus between them."""
    card, thick, long = _card_of_pairs(pictures, arrows=False), 3, ARROW // 2 - 1
    pen, middle = ImageDraw.Draw(card), CARD // 2
    pen.rectangle((middle - long, middle - thick, middle + long, middle + thick - 1), CARD_ARROW)
    pen.rectangle((middle - thick, middle - long, middle + thick - 1, middle + long - 1), CARD_ARROW)
    return card


def card_of_best(pictures: Sequence[Image.Image]) -> Image.Image:
    """The chosen picture, large and framed, then all candidates: the others are small, below and at its right."""
    chosen, *candidates = pictures
    best = min(range(len(candidates)), key=lambda number: difference(chosen, candidates[number]))
    rest = candidates[:best] + candidates[best + 1 :]
    cells = math.ceil((len(rest) + 1) / 2)
    small = (CARD - 2 * CARD_MARGIN - (cells - 1) * THIN_GAP) // cells
    step, large = small + THIN_GAP, (cells - 1) * (small + THIN_GAP) - THIN_GAP
    card = _blank()
    paste_framed(card, enlarged(chosen, large), CARD_MARGIN, CARD_MARGIN, CHOSEN, 6)
    right, below = ([(cells - 1, row) for row in range(cells)], [(column, cells - 1) for column in range(cells - 1)])
    for (column, row), picture in zip([*right, *below], rest, strict=False):
        x, y = CARD_MARGIN + column * step, CARD_MARGIN + row * step
        paste_framed(card, enlarged(picture, small), x, y, CARD_LINE)
    return card


def difference(a: Image.Image, b: Image.Image) -> float:
    """How different two pictures are at the size of a thumbnail."""
    small = [one.convert("RGB").resize((48, 48), Image.Resampling.BOX).tobytes() for one in (a, b)]
    return sum(abs(x - y) for x, y in zip(*small, strict=True))


def _blank() -> Image.Image:
    return Image.new("RGB", (CARD, CARD), DARK)


def _card_of_pairs(pictures: Sequence[Image.Image], arrows: bool) -> Image.Image:
    side, rows = (CARD - 2 * CARD_MARGIN - CARD_GAP) // 2, len(pictures) // 2
    card, step = _blank(), (CARD - 2 * CARD_MARGIN - CARD_GAP) // 2 + CARD_GAP
    top = (CARD - rows * step + CARD_GAP) // 2
    for number, picture in enumerate(pictures):
        column, y = number % 2, top + number // 2 * step
        paste_framed(card, enlarged(picture, side), CARD_MARGIN + column * step, y, CARD_LINE, 2)
        if arrows and column:
            paste_arrow(card, CARD / 2, y + side / 2, ARROW, CARD_ARROW)
    return card


def _paste_bubble(card: Image.Image, x: int, y: int) -> None:
    """A thought bubble of about 160 by 150 pixels."""
    for grown, colour in ((BUBBLE_LINE, CARD_LINE), (0, WHITE)):
        for left, top, side in BUBBLE:
            _paste_circle(card, x + left - grown, y + top - grown, side + 2 * grown, colour)
    for number in range(3):
        _paste_circle(card, x + 44 + 30 * number, y + 52, 16, DARK)


def _paste_circle(card: Image.Image, x: int, y: int, side: int, colour: Colour) -> None:
    mask = Image.new("L", (FINER * side, FINER * side))
    ImageDraw.Draw(mask).ellipse((0, 0, FINER * side - 1, FINER * side - 1), 255)
    mask = mask.resize((side, side), Image.Resampling.LANCZOS)
    card.paste(Image.new("RGB", mask.size, colour), (x, y), mask)


# Files


def fitted(pictures: Mapping[str, Image.Image], kind: str, most_each: int, most: int) -> dict[str, bytes]:
    """Pictures as files at the best common quality at which they take at most so many bytes, each and all together.

    One that is too large by itself has a lower quality. Raises InputError.
    """
    best = {name: _best_quality(picture, kind, most_each) for name, picture in pictures.items()}
    for common in QUALITIES:
        files = {name: written_at(one, kind, min(common, best[name])) for name, one in pictures.items()}
        if sum(map(len, files.values())) <= most:
            return files
    raise InputError(f"{len(pictures)} pictures at the least quality take more than {most} bytes")


def _best_quality(picture: Image.Image, kind: str, most: int) -> int:
    for quality in QUALITIES:
        if len(written_at(picture, kind, quality)) <= most:
            return quality
    raise InputError(f"a picture at the least quality takes more than {most} bytes")


def written_at(picture: Image.Image, kind: str, quality: int) -> bytes:
    """A picture as a file of a kind, JPEG or WEBP."""
    options = {"subsampling": 0} if kind == "JPEG" else {"method": 6}
    with io.BytesIO() as file:
        picture.save(file, kind, quality=quality, **options)
        return file.getvalue()
