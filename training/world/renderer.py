"""Pictures of scenes, flat antialiased shapes on a flat background, and their depth, edge and pose maps."""

from __future__ import annotations

from functools import cache

import numpy as np

from .palette import BACKGROUNDS, CANVAS, COLOURS, DEPTH_GREYS, INKS, MORE_COLOURS, PEOPLE, SHAPES
from .scenes import Scene, SceneObject

SUPERSAMPLING = 8
CROSS_ARM = 3 / 8
STAR_INNER_RADIUS = 0.45
HEAD = (0.0, -0.68, 0.28)
LIMB, BONE, JOINT = 0.14, 0.07, 0.13
NECK, HIP = (0.0, -0.4), (0.0, 0.25)
# Hands and feet of each pose, left and right alike; u to the right, v down, the box from -1 to 1.
POSES = {
    "person with arms up": ((0.8, -0.8), (0.3, 0.9)),
    "person with arms out": ((0.85, -0.3), (0.3, 0.9)),
    "person with arms down": ((0.5, 0.3), (0.3, 0.9)),
    "person with legs apart": ((0.85, -0.3), (0.8, 0.9)),
}
Point = tuple[float, float]


def render(scene: Scene, map: str | None = None) -> np.ndarray:
    """The scene's picture, uint8 [64, 64, 3], or a map of it, bright on black.

    depth: the larger an object, the nearer and brighter; canny: outlines; hed: soft outlines; pose: the skeletons of
    people, who alone have one.
    """
    picture = np.empty((CANVAS, CANVAS, 3), np.float32)
    picture[:] = BACKGROUNDS[scene.background] if map is None else 0
    for thing in scene.objects:
        patch = picture[thing.y : thing.y + thing.side, thing.x : thing.x + thing.side]
        patch += layer_mask(map, thing.shape, thing.side)[..., None] * (np.float32(ink(thing, map)) - patch)
    return (picture + 0.5).astype(np.uint8)


def ink(thing: SceneObject, map: str | None) -> tuple[int, int, int]:
    """The colour in which a picture (None) or map shows an object."""
    if map == "depth":
        return (DEPTH_GREYS[thing.size],) * 3
    return (COLOURS | MORE_COLOURS)[thing.colour] if map is None else INKS[map]


@cache
def layer_mask(map: str | None, shape: str, side: int) -> np.ndarray:
    """How strongly a picture (None) or map shows each pixel of an object's box: float32 [side, side], read-only.

    Raises ValueError for a map that is not in MAPS.
    """
    if map in (None, "depth"):
        return shape_mask(shape, side)
    if map == "pose":
        return _sampled(side, lambda u, v: _skeleton(shape, u, v))
    if map not in INKS:
        raise ValueError(f"map is {map!r}; expected one of depth, {', '.join(INKS)}")
    mask = _outline(shape_mask(shape, side)) if map == "canny" else _soft_outline(shape_mask(shape, side))
    mask.flags.writeable = False
    return mask


@cache
def shape_mask(shape: str, side: int) -> np.ndarray:
    """Share of each pixel that the shape covers when it fills a box of `side` px: float32 [side, side], read-only.

    Raises ValueError for a shape that is not in SHAPES or PEOPLE.
    """
    return _sampled(side, lambda u, v: _inside(shape, u, v))


def _sampled(side: int, inside) -> np.ndarray:
    fine = (np.arange(side * SUPERSAMPLING) + 0.5) / (side * SUPERSAMPLING) * 2 - 1
    covered = np.broadcast_to(inside(fine[None, :], fine[:, None]), (len(fine), len(fine)))
    mask = covered.reshape(side, SUPERSAMPLING, side, SUPERSAMPLING).mean((1, 3), dtype=np.float32)
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
    if shape in PEOPLE:
        return _inside_person(shape, u, v)
    raise ValueError(f"shape is {shape!r}; expected one of {', '.join((*SHAPES, *PEOPLE))}")


def _inside_star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    half_turn = np.pi / 5
    top, bottom, width = 1.0, np.cos(half_turn), np.sin(2 * half_turn)
    x, y = u * width, -(v * (top + bottom) - (top - bottom)) / 2
    radius = np.hypot(x, y)
    angle = abs((np.arctan2(x, y) + half_turn) % (2 * half_turn) - half_turn)
    valley_x, valley_y = STAR_INNER_RADIUS * np.cos(half_turn), STAR_INNER_RADIUS * np.sin(half_turn)
    return (valley_x - 1) * radius * np.sin(angle) >= valley_y * (radius * np.cos(angle) - 1)


def _inside_person(pose: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    x, y, radius = HEAD
    return (np.hypot(u - x, v - y) <= radius) | (_limbs_distance(pose, u, v) <= LIMB)


def _skeleton(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bones and, thicker, joints of a person; nothing of any other shape."""
    if shape not in PEOPLE:
        return np.zeros((1, 1), bool)
    (hand_x, hand_y), (foot_x, foot_y) = POSES[shape]
    joints = [HEAD[:2], NECK, HIP, (hand_x, hand_y), (-hand_x, hand_y), (foot_x, foot_y), (-foot_x, foot_y)]
    near_joint = np.minimum.reduce([np.hypot(u - x, v - y) for x, y in joints])
    return (_limbs_distance(shape, u, v) <= BONE) | (near_joint <= JOINT)


def _limbs_distance(pose: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    hand, foot = POSES[pose]
    body = _segment_distance(u, v, NECK, HIP)
    return np.minimum.reduce([body, _segment_distance(abs(u), v, NECK, hand), _segment_distance(abs(u), v, HIP, foot)])


def _segment_distance(u: np.ndarray, v: np.ndarray, start: Point, end: Point) -> np.ndarray:
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = np.clip(((u - start[0]) * dx + (v - start[1]) * dy) / (dx * dx + dy * dy), 0, 1)
    return np.hypot(u - start[0] - along * dx, v - start[1] - along * dy)


def _outline(mask: np.ndarray) -> np.ndarray:
    """The mask's pixels that have one of their four neighbours outside it."""
    inside = np.pad(mask >= 0.5, 1)
    deep = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    return (inside[1:-1, 1:-1] & ~deep).astype(np.float32)


def _soft_outline(mask: np.ndarray) -> np.ndarray:
    """How near the blurred mask is to one half."""
    soft = np.pad(mask, 3)
    for axis in (0, 1, 0, 1):
        soft = (np.roll(soft, 1, axis) + 2 * soft + np.roll(soft, -1, axis)) / 4
    soft = soft[3:-3, 3:-3]
    return np.round(4 * soft * (1 - soft) * 15) / 15
