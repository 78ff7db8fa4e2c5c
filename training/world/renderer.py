"""Pictures of scenes: flat shapes with antialiased edges on a flat background."""

from __future__ import annotations

from functools import cache

import numpy as np

from .palette import BACKGROUNDS, CANVAS, COLOURS, SHAPES
from .scenes import Scene

SUPERSAMPLING = 8
CROSS_ARM = 3 / 8
STAR_INNER_RADIUS = 0.45


def render(scene: Scene) -> np.ndarray:
    """The scene's picture, uint8 [64, 64, 3]."""
    picture = np.empty((CANVAS, CANVAS, 3), np.float32)
    picture[:] = BACKGROUNDS[scene.background]
    for thing in scene.objects:
        patch = picture[thing.y : thing.y + thing.side, thing.x : thing.x + thing.side]
        patch += shape_mask(thing.shape, thing.side)[..., None] * (np.float32(COLOURS[thing.colour]) - patch)
    return (picture + 0.5).astype(np.uint8)


@cache
def shape_mask(shape: str, side: int) -> np.ndarray:
    """Share of each pixel that the shape covers when it fills a box of `side` px: float32 [side, side], read-only.

    Raises ValueError for a shape that is not in SHAPES.
    """
    fine = (np.arange(side * SUPERSAMPLING) + 0.5) / (side * SUPERSAMPLING) * 2 - 1
    inside = _inside(shape, fine[None, :], fine[:, None])
    mask = np.broadcast_to(inside, (len(fine), len(fine))).reshape(side, SUPERSAMPLING, side, SUPERSAMPLING)
    mask = mask.mean((1, 3), dtype=np.float32)
    mask.flags.writeable = False
    return mask


def _inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    if shape == "circle":
        return u**2 + v**2 <= 1
    if shape == "square":
        return np.maximum(abs(u), abs(v)) <= 1
    if shape == "triangle":
        return abs(u) <= (v + 1) / 2
    if shape == "diamond":
        return abs(u) + abs(v) <= 1
    if shape == "cross":
        return np.minimum(abs(u), abs(v)) <= CROSS_ARM
    if shape == "star":
        return _inside_star(u, v)
    raise ValueError(f"shape is {shape!r}; expected one of {', '.join(SHAPES)}")


def _inside_star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    half_turn = np.pi / 5
    top, bottom, width = 1.0, np.cos(half_turn), np.sin(2 * half_turn)
    x, y = u * width, -(v * (top + bottom) - (top - bottom)) / 2
    radius = np.hypot(x, y)
    angle = abs((np.arctan2(x, y) + half_turn) % (2 * half_turn) - half_turn)
    valley_x, valley_y = STAR_INNER_RADIUS * np.cos(half_turn), STAR_INNER_RADIUS * np.sin(half_turn)
    return (valley_x - 1) * radius * np.sin(angle) >= valley_y * (radius * np.cos(angle) - 1)
