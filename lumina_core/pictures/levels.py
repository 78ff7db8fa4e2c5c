"""Levels of grey: pictures of 16 and 32 bits and of floats as 8 bits, and pictures that hold none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..errors import InputError

logger = logging.getLogger(__name__)

_TILE = 1024
_TOLERANCE = 0.5 / 255
_INTEGER_SCALES, _FLOAT_SCALES = (1, 255, 4095, 65535), (1, 255)
# Beyond these levels of 255 nothing can be told apart.
_BLACK, _WHITE, _FLAT = 16, 239, 2
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Range:
    """The lowest and the highest value of a picture."""

    lowest: float
    highest: float
    is_whole: bool

    def __str__(self) -> str:
        return f"values from {self.lowest:.6g} to {self.highest:.6g}"


def tiles(image: Image.Image) -> Iterator[tuple[Box, Image.Image]]:
    """The picture in parts of at most 1024x1024, each with its box, so that converting it takes little memory."""
    for top in range(0, image.height, _TILE):
        for left in range(0, image.width, _TILE):
            box = (left, top, min(left + _TILE, image.width), min(top + _TILE, image.height))
            yield box, image.crop(box)


def is_deep(image: Image.Image) -> bool:
    """Whether a pixel is a number of more than 8 bits: Pillow's modes I, I;16 and F."""
    return image.mode.startswith("I") or image.mode == "F"


def eight_bits(image: Image.Image, name: str) -> Image.Image:
    """8-bit grey of a picture of 16 or 32 bits or of floats; a transparent level is white.

    The full scale is the smallest of 1, 255, 4095 and 65535 that no whole number exceeds, of floats the smaller of 1
    and 255, the latter for whole numbers only. Values of 16 bits are divided by 257. A scale that the format does not
    imply is logged. Raises InputError for values outside all scales, such as a depth in metres, and for NaN.
    """
    found = _range(image, name)
    scale = _full_scale(image, found, name)
    transparent = image.info.get("transparency")
    grey = Image.new("L", image.size)
    for box, tile in tiles(image):
        values = np.asarray(tile)
        levels = _levels(values, scale)
        if isinstance(transparent, int):
            levels[values == transparent] = 255
        grey.paste(Image.fromarray(levels), box)
    return grey


def warn_if_flat(image: Image.Image, name: str) -> None:
    """Logs a warning for an RGB picture that is (nearly) all black or all white, and at INFO one of another colour."""
    colours = np.asarray(image).reshape(-1, 3)
    lows, highs = colours.min(0), colours.max(0)
    lowest, highest = lows.min(), highs.max()
    if highest <= _BLACK:
        logger.warning("%s is %sblack: check its range and its alpha", name, "all " if not highest else "nearly all ")
    elif lowest >= _WHITE:
        logger.warning("%s is %swhite: check its range and its alpha", name, "all " if lowest == 255 else "nearly all ")
    elif (highs - lows <= _FLAT).all():
        logger.info("%s is one flat colour: check whether it is the right picture", name)


def _range(image: Image.Image, name: str) -> _Range:
    lowest, highest, is_whole, not_finite = np.inf, -np.inf, True, 0
    for _, tile in tiles(image):
        values = np.asarray(tile)
        not_finite += values.size - int(np.isfinite(values).sum())
        lowest, highest = min(lowest, float(values.min())), max(highest, float(values.max()))
        is_whole = is_whole and not not_finite and bool((values == np.floor(values)).all())
    if not_finite:
        raise InputError(
            f"{name} holds {not_finite} values that are NaN or infinite, of {image.width * image.height}; expected "
            "numbers from 0 to 1: replace them first"
        )
    return _Range(lowest, highest, is_whole)


def _full_scale(image: Image.Image, found: _Range, name: str) -> int:
    """The value that is white."""
    is_float = image.mode == "F"
    scales = _FLOAT_SCALES if is_float else _INTEGER_SCALES
    fitting = [scale for scale in scales if found.highest <= scale + is_float * scale * _TOLERANCE]
    scale = fitting[0] if fitting else None
    if scale is None or found.lowest < -is_float * scale * _TOLERANCE or (scale > 1 and not found.is_whole):
        expected = "0 to 1, or whole numbers from 0 to 255" if is_float else "whole numbers from 0 to 65535"
        raise InputError(
            f"{name} holds {found}; expected {expected}: scale them to that range first, and of a depth in metres "
            "make near white and far black"
        )
    if is_float and scale == 1:
        logger.info("%s holds %s: scaled from 0 to 1", name, found)
    elif scale < _INTEGER_SCALES[-1] and found.highest > 0:
        logger.warning("%s holds %s: read with %s as white; if that is wrong, scale them first", name, found, scale)
    elif found.highest < scale / 4:
        logger.warning("%s holds %s of %s: it is dark; if that is wrong, scale them first", name, found, scale)
    return scale


def _levels(values: np.ndarray, scale: int) -> np.ndarray:
    if scale == 65535:
        return (values.astype(np.uint16) // 257).astype(np.uint8)
    return (values.astype(np.float64) * (255 / scale)).round().clip(0, 255).astype(np.uint8)
