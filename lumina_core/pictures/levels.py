"""Levels of grey: pictures of 16 and 32 bits and of floats as 8 bits, and pictures that hold none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..errors import InputError

logger = logging.getLogger(__name__)

_TILE = 1024
_TOLERANCE = 0.5 / 255
_INTEGER_SCALES, _FLOAT_SCALES = (1, 255, 4095, 65535), (1, 255)
# Beyond these levels of 255 nothing can be told apart.
_BLACK, _WHITE, _FLAT = 16, 239, 2
_DARK = 64
# Half of 16 bits: what Photoshop's 15 bits reach, and no value of a depth in millimetres exceeds within 32 metres.
_HALF = 2**15
# A map of floats that fills 0 to 1 reaches beyond both.
_FILLS_FROM, _FILLS_TO = 0.02, 0.98
# What `Image.info` says of a picture that was read from a file.
WHITE_IS_ZERO, UNSIGNED_32, CHANNELS_TO = "lumina_white_is_zero", "lumina_unsigned_32", "lumina_channels_to"
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Range:
    """The lowest and the highest value of a picture, and the highest below 65535, which `full` pixels have."""

    lowest: float
    highest: float
    is_whole: bool
    highest_below: float
    full: int

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
    imply is logged, and a map that is dark. A file may say that 0 is white. Raises InputError for values outside all
    scales, such as a depth in metres, and for NaN.
    """
    found = _range(image, name)
    scale = _full_scale(image, found, name)
    transparent = image.info.get("transparency")
    grey = Image.new("L", image.size)
    for box, tile in tiles(image):
        values = _values(tile)
        levels = _levels(scale - values if image.info.get(WHITE_IS_ZERO) else values, scale)
        if isinstance(transparent, int):
            levels[values == transparent] = 255
        grey.paste(Image.fromarray(levels), box)
    return grey


def warn_if_channels_are_dark(image: Image.Image, name: str) -> None:
    """Logs a warning for colours or alpha of more than 8 bits, read by their upper 8, that fill half the range at most.

    `image.info` may hold the value of white in the file, `CHANNELS_TO`; it is removed.
    """
    white = image.info.pop(CHANNELS_TO, None)
    if white is None or is_deep(image):
        return
    highest = {band: high for band, (_, high) in zip(image.getbands(), _extrema(image), strict=True)}
    alpha = highest.pop("A", 255)
    for what, high in (("", max(highest.values())), ("alpha ", alpha)):
        if high <= _HALF >> 8:
            logger.warning(
                "%s holds %svalues below %d of %d: if they are of fewer bits, scale them to %d first",
                *(name, what, (high + 1) * (white + 1) // 256, white, white),
            )


def warn_if_flat(image: Image.Image, name: str) -> None:
    """Logs a warning for an RGB picture that is dark or (nearly) all white, and at INFO one of another colour."""
    colours = np.asarray(image).reshape(-1, 3)
    lows, highs = colours.min(0), colours.max(0)
    lowest, highest = lows.min(), highs.max()
    if highest <= _BLACK:
        logger.warning("%s is %sblack: check its range and its alpha", name, "all " if not highest else "nearly all ")
    elif lowest >= _WHITE:
        logger.warning("%s is %swhite: check its range and its alpha", name, "all " if lowest == 255 else "nearly all ")
    elif highest < _DARK:
        logger.warning("%s is dark: its brightest value is %d of 255; check its range", name, highest)
    elif (highs - lows <= _FLAT).all():
        logger.info("%s is one flat colour: check whether it is the right picture", name)


def _range(image: Image.Image, name: str) -> _Range:
    lowest, highest, is_whole, not_finite = np.inf, -np.inf, True, 0
    highest_below, full = -np.inf, 0
    for _, tile in tiles(image):
        values = _values(tile)
        not_finite += values.size - int(np.isfinite(values).sum())
        lowest, highest = min(lowest, float(values.min())), max(highest, float(values.max()))
        is_whole = is_whole and not not_finite and bool((values == np.floor(values)).all())
        below = values[values < _INTEGER_SCALES[-1]]
        highest_below = max(highest_below, float(below.max(initial=0)))
        full += values.size - below.size
    if not_finite:
        raise InputError(
            f"{name} holds {not_finite} values that are NaN or infinite, of {image.width * image.height}; expected "
            "numbers from 0 to 1: replace them first"
        )
    return _Range(lowest, highest, is_whole, highest_below, full)


def _values(image: Image.Image) -> np.ndarray:
    """The values of a picture; Pillow has none of 32 bits without a sign."""
    values = np.asarray(image)
    return values.view(np.uint32) if image.info.get(UNSIGNED_32) else values


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
    _say_scale(found, scale, is_float, name)
    return scale


def _say_scale(found: _Range, scale: int, is_float: bool, name: str) -> None:
    """Logs how values become levels, as a warning where the format does not imply it or the map is dark."""
    if is_float and scale == 1:
        if found.lowest <= _FILLS_FROM and found.highest >= _FILLS_TO:
            logger.info("%s holds %s: scaled from 0 to 1", name, found)
        else:
            logger.warning(
                "%s holds %s: read with 1 as white; if that is wrong (a depth in metres?), scale them first: near 1, "
                "far 0",
                *(name, found),
            )
    elif scale < _INTEGER_SCALES[-1] and found.highest > 0:
        logger.warning("%s holds %s: read with %s as white; if that is wrong, scale them first", name, found, scale)
    elif found.highest <= _HALF:
        logger.warning(
            "%s holds %s of %s: it is dark; if that is wrong (a depth in millimetres?), scale them first: near white, "
            "far black",
            *(name, found, scale),
        )
    elif found.highest == scale and 0 < found.highest_below <= _HALF:
        logger.warning(
            "%s holds values from %.6g to %.6g, and %d in %d pixels: the others are dark; if it stands for no value, "
            "replace it and scale the others first",
            *(name, found.lowest, found.highest_below, scale, found.full),
        )


def _extrema(image: Image.Image) -> tuple[tuple[int, int], ...]:
    """The lowest and the highest level of each band."""
    found: Any = image.getextrema()
    return found if isinstance(found[0], tuple) else (found,)


def _levels(values: np.ndarray, scale: int) -> np.ndarray:
    if scale == 65535:
        return (values.astype(np.uint16) // 257).astype(np.uint8)
    return (values.astype(np.float64) * (255 / scale)).round().clip(0, 255).astype(np.uint8)
