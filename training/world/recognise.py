"""Reads a picture back into objects: shape, colour, size and place by plain picture analysis.

Knows the shapes and the palette of the demo world, not its grid. Stands blur and noise of a lossy reconstruction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from types import MappingProxyType

import numpy as np

from .palette import BACKGROUNDS, CANVAS, COLOURS, PEOPLE, SHAPES, SIZES
from .renderer import shape_mask
from .scenes import Scene, SceneObject

NO_COLOURS: Mapping[str, tuple[int, int, int]] = MappingProxyType({})
FOREGROUND_DISTANCE = 55.0
SPECK_PIXELS = 20
CORE_SHARE = 0.7
MIN_PURITY = 0.8
BLEND_DISTANCE = 40.0
MIN_OVERLAP = 0.87
MARGIN = 3
SIDES = (10, 30)
SHIFTS = (-1, 0, 1)
BLURS = (0, 2)
GROWTH = 4
REACH = 8


@dataclass(frozen=True)
class FoundObject:
    """One object of a picture; `shape` or `colour` is None where the object is like no shape or colour of the world.

    `x`, `y` (px) is the centre of its box, `overlap` the intersection over union with the best shape.
    """

    shape: str | None
    colour: str | None
    size: str
    x: float
    y: float
    overlap: float


@dataclass(frozen=True)
class Recognised:
    """What is in a picture."""

    background: str
    objects: tuple[FoundObject, ...]


def recognise(image: np.ndarray, more_colours: Mapping[str, tuple[int, int, int]] = NO_COLOURS) -> Recognised:
    """Background and objects of a picture, uint8 [H, W, 3]. Raises ValueError for any other array.

    `more_colours` are colours that objects may have beside those of the world.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"picture is {image.dtype} {list(image.shape)}; expected uint8 [height, width, 3]")
    pixels, inks = image.astype(np.float32), {**COLOURS, **more_colours}
    background, ground = _background(pixels)
    foreground = np.linalg.norm(pixels - ground, axis=2) > FOREGROUND_DISTANCE
    components = [region for region in label_regions(foreground) if len(region) >= SPECK_PIXELS]
    return Recognised(background, tuple(_identify(pixels, ground, region, inks) for region in components))


def scene_of(found: Recognised) -> Scene:
    """The scene that was read from a picture; what is like no shape or colour of the world is left out."""
    known = [thing for thing in found.objects if thing.shape is not None and thing.colour is not None]
    return Scene(found.background, tuple(_placed(thing) for thing in known))


def _placed(thing: FoundObject) -> SceneObject:
    side = SIZES[thing.size]
    x, y = (min(max(round(middle - side / 2), 0), CANVAS - side) for middle in (thing.x, thing.y))
    assert thing.shape is not None and thing.colour is not None
    return SceneObject(thing.shape, thing.colour, thing.size, x, y)


def _background(pixels: np.ndarray) -> tuple[str, np.ndarray]:
    """The background colour that most of the border is nearest to, of all colours of the world; its actual shade."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    nearest = _nearest(border, np.float32([*BACKGROUNDS.values(), *COLOURS.values()]))
    winner = int(np.bincount(nearest, minlength=len(BACKGROUNDS))[: len(BACKGROUNDS)].argmax())
    name, chosen = list(BACKGROUNDS)[winner], border[nearest == winner]
    return name, np.median(chosen, axis=0) if len(chosen) else np.float32(BACKGROUNDS[name])


def _nearest(colours: np.ndarray, palette: np.ndarray) -> np.ndarray:
    return np.linalg.norm(colours[:, None] - palette[None], axis=2).argmin(1)


def label_regions(foreground: np.ndarray) -> list[np.ndarray]:
    """The 8-connected regions of a mask, bool [H, W]: for each its pixels, int [n, 2] as (row, column)."""
    waiting = {(int(y), int(x)) for y, x in np.argwhere(foreground)}
    regions = []
    while waiting:
        edge, region = [min(waiting)], []
        waiting.discard(edge[0])
        while edge:
            y, x = edge.pop()
            region.append((y, x))
            near = [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (y + dy, x + dx) in waiting]
            waiting.difference_update(near)
            edge.extend(near)
        regions.append(np.array(region))
    return regions


def _identify(
    pixels: np.ndarray, ground: np.ndarray, region: np.ndarray, inks: Mapping[str, tuple[int, int, int]]
) -> FoundObject:
    flat, colour = _core_colour(pixels, ground, region, inks)
    cover, top, left = _cover(pixels, ground, flat, region)
    rows, columns = np.nonzero((cover >= 0.5).any(1))[0], np.nonzero((cover >= 0.5).any(0))[0]
    side = int(max(np.ptp(rows), np.ptp(columns))) + 1 if len(rows) else 0
    if not SIDES[0] <= side <= SIDES[1]:
        y, x = region.mean(0) + 0.5
        return FoundObject(None, colour, _size_name(side), float(x), float(y), 0.0)
    y, x = (rows[0] + rows[-1] + 1) / 2, (columns[0] + columns[-1] + 1) / 2
    shape, best_side, overlap = best_shape(cover, side, (float(y), float(x)))
    known = shape if overlap >= MIN_OVERLAP else None
    return FoundObject(known, colour, _size_name(best_side), left + float(x), top + float(y), overlap)


def _size_name(side: int) -> str:
    return min(SIZES, key=lambda name: abs(SIZES[name] - side))


def _core_colour(
    pixels: np.ndarray, ground: np.ndarray, region: np.ndarray, inks: Mapping[str, tuple[int, int, int]]
) -> tuple[np.ndarray, str | None]:
    colours = pixels[region[:, 0], region[:, 1]]
    contrast = np.linalg.norm(colours - ground, axis=1)
    core = colours[contrast >= CORE_SHARE * np.quantile(contrast, 0.9)]
    names = (*inks, *BACKGROUNDS)
    palette = np.float32([*inks.values(), *BACKGROUNDS.values()])
    flat = np.median(core, axis=0)
    winner = int(_nearest(flat[None], palette)[0])
    pure = (_nearest(core, palette) == winner) | (_off_blend(core, ground, flat) < BLEND_DISTANCE)
    return flat, names[winner] if pure.mean() >= MIN_PURITY and names[winner] in inks else None


def _off_blend(colours: np.ndarray, ground: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """Distance of each colour from the blends of ground and object: small where blur mixed the two."""
    axis = flat - ground
    share = np.clip((colours - ground) @ axis / max(axis @ axis, 1.0), 0, 1)
    return np.linalg.norm(colours - ground - share[:, None] * axis, axis=1)


def _cover(pixels: np.ndarray, ground: np.ndarray, flat: np.ndarray, region: np.ndarray) -> tuple[np.ndarray, int, int]:
    """How far each pixel around the region is from the ground's colour to the object's, 0 to 1; the cut's corner."""
    low, high = region.min(0), region.max(0) + 1
    shape = tuple(high - low + 2 * MARGIN)
    cover = np.zeros(shape, np.float32)
    top, left = np.maximum(low - MARGIN, 0)
    cut = pixels[top : high[0] + MARGIN, left : high[1] + MARGIN]
    axis = flat - ground
    y, x = (top, left) - (low - MARGIN)
    cover[y : y + cut.shape[0], x : x + cut.shape[1]] = np.clip((cut - ground) @ axis / max(axis @ axis, 1.0), 0, 1)
    return cover, int(low[0]) - MARGIN, int(low[1]) - MARGIN


def best_shape(cover: np.ndarray, side: int, centre: tuple[float, float]) -> tuple[str, int, float]:
    """The shape most like a soft mask, float32 [h, w], its side (px) and their overlap.

    Tries sides around `side`, sharp and blurred, about `centre` (y, x). The overlap is Tanimoto's a·b/(a·a+b·b-a·b),
    which for hard masks is intersection over union.
    """
    stamps, powers = _stamps(side)
    field = _field(cover, side + REACH, centre).ravel()
    common = stamps @ field
    overlaps = common / (powers + field @ field - common)
    winner = int(overlaps.argmax())
    shape, width, *_ = _variants(side)[winner]
    return shape, width, float(overlaps[winner])


def _field(cover: np.ndarray, length: int, centre: tuple[float, float]) -> np.ndarray:
    padded = np.pad(cover, length)
    top, left = (round(middle + length - length / 2) for middle in centre)
    return padded[top : top + length, left : left + length]


@cache
def _stamps(side: int) -> tuple[np.ndarray, np.ndarray]:
    stamps = np.stack([_stamp(side + REACH, *variant) for variant in _variants(side)])
    return stamps, (stamps**2).sum(1)


@cache
def _variants(side: int) -> list[tuple[str, int, int, int, int]]:
    widths = range(max(side - 1, 1), side + GROWTH + 1)
    return list(product((*SHAPES, *PEOPLE), widths, BLURS, SHIFTS, SHIFTS))


def _stamp(length: int, shape: str, width: int, blur: int, dy: int, dx: int) -> np.ndarray:
    field = np.zeros((length, length), np.float32)
    start = (length - width) // 2
    field[start + dy : start + dy + width, start + dx : start + dx + width] = shape_mask(shape, width)
    for _ in range(blur):
        for axis in (0, 1):
            field = (np.roll(field, 1, axis) + 2 * field + np.roll(field, -1, axis)) / 4
    return field.ravel()
