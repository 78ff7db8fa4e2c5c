"""Sizes of pictures: the one check of what can be drawn, and the sizes that the published model was trained on."""

from __future__ import annotations

import logging
import math
import numbers
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError

logger = logging.getLogger(__name__)

Size = tuple[int, int]
UNIT_PIXELS = 32
CODE_PIXELS = 8
CODES_PER_UNIT = UNIT_PIXELS // CODE_PIXELS
HEADER_LENGTH = 3
MAX_SIDE = 128 * UNIT_PIXELS
_MOST_SHOWN = 100
# How much more another shape counts than another area, to choose a trained size.
SHAPE_WEIGHT = 8


@dataclass(frozen=True)
class SizeLimits:
    """What a model can draw: tokens of its context, and pixels of the longest side that its tokenizer can name.

    `trained` are the sizes that it was trained on, where they are known: errors name the nearest of them.
    """

    max_tokens: int = sys.maxsize
    max_side: int = MAX_SIDE
    trained: tuple[Size, ...] = ()

    def fits(self, size: Size, prompt_tokens: int = 0) -> bool:
        """Whether a size can be drawn after a prompt of that many tokens."""
        return _expected(*size, self, prompt_tokens) is None


def as_whole(value: object) -> int | None:
    """The whole number that a value of Python or NumPy is; None for anything else, truth values too."""
    return int(value) if isinstance(value, numbers.Integral) and not isinstance(value, bool) else None


def whole_number(name: str, value: object, expected: str) -> int:
    """The value as `as_whole`. Raises InputError, with what is expected, where it is none."""
    number = as_whole(value)
    if number is None:
        raise InputError(f"{name} is {value!r:.{_MOST_SHOWN}}; expected a whole number of {expected}")
    return number


def picture_length(grid_h: int, grid_w: int) -> int:
    """Number of tokens of a picture of `grid_h` rows of `grid_w` codes, start and end included."""
    return HEADER_LENGTH + grid_h * (grid_w + 1) + 1


def check_size(width: int, height: int, limits: SizeLimits | None = None, prompt_tokens: int = 0) -> tuple[int, int]:
    """Rows and columns of codes (grid_h, grid_w) of a picture of `width` by `height` pixels.

    Raises InputError, naming the nearest size that the model was trained on, or else the nearest legal one, unless both
    sides are multiples of 32 up to `limits.max_side` and the picture fits `limits.max_tokens` after a prompt of
    `prompt_tokens`.
    """
    pixels = f"pixels, a multiple of {UNIT_PIXELS}"
    width, height = whole_number("width", width, pixels), whole_number("height", height, pixels)
    limits = limits or SizeLimits()
    expected = _expected(width, height, limits, prompt_tokens)
    if expected:
        nearest = _nearest_text(width, height, limits, prompt_tokens)
        raise InputError(f"the size is {width}x{height}; expected {expected}; {nearest}")
    return height // CODE_PIXELS, width // CODE_PIXELS


def nearest_size(width: int, height: int, limits: SizeLimits, prompt_tokens: int = 0) -> Size:
    """The legal size most like `width` by `height`. Raises InputError when not even 32x32 fits the context."""
    room = limits.max_tokens - prompt_tokens
    widths = range(UNIT_PIXELS, limits.max_side + 1, UNIT_PIXELS)
    fitting = [(w, _tallest(w, min(height, limits.max_side), room)) for w in widths]
    sizes = [(w, h) for w, h in fitting if h > 0]
    if not sizes:
        raise InputError(
            f"the prompt takes {prompt_tokens} tokens, which leaves no room for a picture in the context of "
            f"{limits.max_tokens}; expected a shorter prompt"
        )
    return min(sizes, key=lambda size: _distance(size, (width, height)))


def untrained_reason(width: int, height: int, trained_sizes: Sequence[Size] | None) -> str | None:
    """A sentence for a size that the model was not trained on, else None; see `known_sizes`."""
    trained_sizes = known_sizes(trained_sizes)
    if (width, height) in trained_sizes:
        return None
    nearest = size_text(most_alike(trained_sizes, (width, height)))
    return f"The model was not trained on pictures of {width}x{height}; the nearest size is {nearest}."


def warn_if_untrained(width: int, height: int, trained_sizes: Sequence[Size] | None) -> None:
    """Logs a warning for a size that the model was not trained on; see `known_sizes`."""
    if reason := untrained_reason(width, height, trained_sizes):
        logger.warning("%s", reason)


def fill_size(width: int, height: int, trained_sizes: Sequence[Size] | None, panels: int = 1) -> Size:
    """The size with sides that are 0 filled in from the sizes that the model was trained on; see `known_sizes`.

    Both 0: the largest of them, and among those the squarest, that is one picture, or `panels` (2) pictures above each
    other. One 0: that side of the trained size whose other side is nearest to the given one, the squarest of several.
    """
    if width and height:
        return width, height
    sizes = known_sizes(trained_sizes)
    fitting = [size for size in sizes if _is_stacked(size, sizes) == (panels > 1)] or list(sizes)
    if not (width or height):
        return max(fitting, key=lambda size: (size[0] * size[1], -_lopsided(size, panels)))
    place, given = (0, width) if width else (1, height)
    best = min(fitting, key=lambda size: (abs(math.log(size[place] / given)), _lopsided(size, panels)))
    return (given, best[1]) if width else (best[0], given)


def most_alike(trained_sizes: Sequence[Size] | None, size: Size) -> Size:
    """The trained size of the most similar shape, and of those the one of the most similar area; see `known_sizes`."""

    def difference(one: Size) -> float:
        across, down = (math.log(side) - math.log(max(1, wanted)) for side, wanted in zip(one, size, strict=True))
        return (SHAPE_WEIGHT * (across - down)) ** 2 + (across + down) ** 2

    return min(known_sizes(trained_sizes), key=difference)


def crop_sizes(base: int) -> list[Size]:
    """Sizes (width, height) that the model was trained on around `base` squared pixels, widest first.

    With units of 32 pixels and n = (base / 32)^2: for every width w the heights n // (w+1) to n // w, no side longer
    than four times the other. Raises InputError when `base` is no positive multiple of 32.
    """
    if base < UNIT_PIXELS or base % UNIT_PIXELS:
        raise InputError(f"the base size is {base}; expected a positive multiple of {UNIT_PIXELS}")
    area = (base // UNIT_PIXELS) ** 2
    return [
        (w * UNIT_PIXELS, h * UNIT_PIXELS)
        for w in range(area, 0, -1)
        for h in range(max(1, area // (w + 1)), area // w + 1)
        if max(w, h) <= 4 * min(w, h)
    ]


def known_sizes(trained_sizes: Sequence[Size] | None) -> Sequence[Size]:
    """The sizes that a model was trained on; those of the published one where its config names none (None)."""
    return published_sizes() if trained_sizes is None else trained_sizes


def published_sizes() -> list[Size]:
    """Sizes that the published model was trained on: the crop lists of 768 and 512, and two panels of the latter."""
    small = crop_sizes(512)
    return crop_sizes(768) + small + [(width, 2 * height) for width, height in small]


def largest_size(trained_sizes: Sequence[Size] | None) -> Size:
    """The size of the most pixels, and among those the squarest; see `known_sizes`."""
    return max(known_sizes(trained_sizes), key=lambda size: (size[0] * size[1], min(size)))


def size_text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _expected(width: int, height: int, limits: SizeLimits, prompt_tokens: int) -> str | None:
    """The condition that a size does not meet, or None."""
    if any(side < UNIT_PIXELS or side % UNIT_PIXELS for side in (width, height)):
        return f"positive multiples of {UNIT_PIXELS}"
    if max(width, height) > limits.max_side:
        return f"sides of at most {limits.max_side}, the longest that the tokenizer can name"
    tokens = prompt_tokens + picture_length(height // CODE_PIXELS, width // CODE_PIXELS)
    if tokens > limits.max_tokens:
        of_prompt = f" ({prompt_tokens} the prompt's)" if prompt_tokens else ""
        return f"at most {limits.max_tokens} tokens, the model's context, and this takes {tokens}{of_prompt}"
    return None


def _nearest_text(width: int, height: int, limits: SizeLimits, prompt_tokens: int) -> str:
    """Which size to take instead."""
    trained = [size for size in limits.trained if limits.fits(size, prompt_tokens)]
    if trained:
        nearest = size_text(most_alike(trained, (width, height)))
        return f"the nearest size that the model was trained on is {nearest}"
    return f"the nearest legal size is {size_text(nearest_size(width, height, limits, prompt_tokens))}"


def _is_stacked(size: Size, sizes: Sequence[Size]) -> bool:
    """Whether a size is two pictures of another one above each other."""
    return size[1] % 2 == 0 and (size[0], size[1] // 2) in sizes


def _lopsided(size: Size, panels: int) -> float:
    """How far one panel of a size is from a square."""
    return abs(math.log(panels * size[0] / size[1]))


def _tallest(width: int, height: int, room: int) -> int:
    """The multiple of 32 nearest to `height` with which a picture of this width fits `room` tokens; 0 or less: none."""
    row = width // CODE_PIXELS + 1
    fitting = (room - picture_length(0, 0)) // (CODES_PER_UNIT * row)
    return UNIT_PIXELS * min(max(1, round(height / UNIT_PIXELS)), fitting)


def _distance(size: Size, other: Size) -> float:
    """Distance of two sizes by the ratios of their sides: a size that is too large keeps its aspect ratio."""
    return sum((math.log(side) - math.log(max(1, wanted))) ** 2 for side, wanted in zip(size, other, strict=True))
