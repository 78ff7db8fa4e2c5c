"""Pictures of scenes, things and antialiased shapes on a background, and their depth, edge and pose maps."""

from __future__ import annotations

from functools import cache

import numpy as np

from .edges import canny
from .palette import (
    BACKGROUNDS,
    CANVAS,
    CELLS,
    COLOURS,
    DEPTH_GREYS,
    GRID,
    INKS,
    KINDS,
    MORE_COLOURS,
    PEOPLE,
    PERSON_COLOUR,
    PLACES,
    SHAPES,
    THINGS,
)
from .scenes import Scene
from .things import MARGIN, thing_picture

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
NEUTRAL = (128, 128, 128)  # Edges inside an object and around it are those on this ground.
Point = tuple[float, float]
# Details of a place: ellipses of a colour at (x, y) px with half axes (a, b).
WHITE, DEEP, TUFT, PETAL, YELLOW = (255, 255, 255), (95, 175, 240), (70, 150, 50), (255, 150, 190), (255, 225, 80)
PEBBLE, DARK_SAND, SHELL, FAINT, ICE = (
    (190, 165, 120),
    (222, 190, 120),
    (250, 245, 235),
    (150, 160, 215),
    (170, 200, 235),
)
Ellipse = tuple[float, float, float, float, tuple[int, int, int]]
DETAIL_SHAPES: dict[str, tuple[tuple[Ellipse, ...], ...]] = {
    "sky": (
        ((3, 4.5, 2.6, 1.4, WHITE), (5, 3.6, 1.8, 1.6, WHITE)),
        ((4, 4, 3.4, 0.8, WHITE),),
        ((2.6, 3.4, 1.6, 0.6, DEEP), (5.4, 3.4, 1.6, 0.6, DEEP)),
        ((4, 5, 2.2, 1.2, WHITE),),
        ((5, 2.5, 1.4, 0.8, WHITE), (2.5, 5.5, 1.4, 0.8, WHITE)),
    ),
    "grass": (
        ((3, 4, 0.7, 2.4, TUFT), (5, 4.6, 0.7, 1.8, TUFT)),
        ((2, 5, 0.6, 1.8, TUFT), (4, 4, 0.6, 2.6, TUFT), (6, 5, 0.6, 1.8, TUFT)),
        ((4, 4, 2, 2, WHITE), (4, 4, 0.9, 0.9, YELLOW)),
        ((4, 4, 1.8, 1.8, PETAL), (4, 4, 0.8, 0.8, YELLOW)),
        ((4, 3.5, 1.3, 1.3, YELLOW),),
    ),
    "sand": (
        ((3, 3, 1.3, 0.9, PEBBLE), (5.5, 5.5, 1, 0.8, PEBBLE)),
        ((4, 4, 3.2, 0.7, DARK_SAND),),
        ((4, 4, 1.8, 1.5, SHELL), (4, 4.6, 0.7, 0.7, PEBBLE)),
        ((4, 4, 1.7, 1.3, PEBBLE),),
        ((2.5, 5, 2, 0.6, DARK_SAND), (5.5, 2.5, 2, 0.6, DARK_SAND)),
    ),
    "night": (
        ((4, 4, 0.7, 2.4, WHITE), (4, 4, 2.4, 0.7, WHITE)),
        ((4, 4, 1, 1, WHITE),),
        ((2.5, 5.5, 0.8, 0.8, FAINT), (5.5, 2.5, 0.8, 0.8, FAINT)),
        ((4, 4, 1.2, 1.2, YELLOW),),
        ((5, 3, 0.9, 0.9, FAINT),),
    ),
    "snow": (
        ((4, 4, 1.6, 1.6, WHITE),),
        ((2.5, 2.5, 1.1, 1.1, WHITE), (5.5, 5.5, 1.1, 1.1, WHITE)),
        ((4, 4, 0.6, 2.2, ICE), (4, 4, 2.2, 0.6, ICE)),
        ((4, 5, 2.8, 0.8, ICE),),
        ((3.5, 4, 0.9, 0.9, ICE),),
    ),
}


def render(scene: Scene, map: str | None = None) -> np.ndarray:
    """The scene's picture, uint8 [96, 96, 3], or a map of it, bright on black.

    depth: the larger an object, the nearer and brighter; canny: edges; hed: soft outlines; pose: the skeletons of
    people, who alone have one.
    """
    picture = np.zeros((CANVAS, CANVAS, 3), np.float32)
    if map is None:
        details = np.frombuffer(scene.details, np.uint8).reshape(CELLS, CELLS)
        cells = ground_looks(scene.background)[details]
        picture[:] = cells.transpose(0, 2, 1, 3, 4).reshape(picture.shape)
    for thing in scene.objects:
        patch = picture[thing.y : thing.y + thing.side, thing.x : thing.x + thing.side]
        layer = object_layer(map, thing.kind, thing.colour, thing.size, thing.side)
        patch += layer[..., 3:] * (layer[..., :3] - patch)
    return (picture + 0.5).astype(np.uint8)


@cache
def ground_looks(background: str) -> np.ndarray:
    """The looks of a background's cells, float32 [details, 8, 8, 3]: bare, then each detail of a place."""
    details = DETAIL_SHAPES[background] if background in PLACES else ()
    looks = np.empty((1 + len(details), GRID, GRID, 3), np.float32)
    looks[:] = BACKGROUNDS[background]
    for number, ellipses in enumerate(details, 1):
        for x, y, a, b, colour in ellipses:
            cover = _sampled(GRID, lambda u, v, e=(x, y, a, b): _in_ellipse(u, v, e))
            looks[number] += cover[..., None] * (np.float32(colour) - looks[number])
    looks.flags.writeable = False
    return looks


def _in_ellipse(u: np.ndarray, v: np.ndarray, ellipse: tuple[float, float, float, float]) -> np.ndarray:
    x, y, a, b = ellipse
    return (((u + 1) * GRID / 2 - x) / a) ** 2 + (((v + 1) * GRID / 2 - y) / b) ** 2 <= 1


@cache
def object_layer(map: str | None, kind: str, colour: str | None, size: str, side: int) -> np.ndarray:
    """An object in its box, in a picture (None) or map: float32 [side, side, 4], RGB and how much it covers.

    Raises ValueError for a kind that is not in KINDS and for a map that is not in MAPS.
    """
    if map is None:
        layer = _picture_layer(kind, colour, side)
    elif map == "depth":
        layer = np.dstack([np.full((side, side, 3), DEPTH_GREYS[size], np.float32), shape_mask(kind, side)])
    elif map in INKS:
        layer = np.dstack([np.broadcast_to(np.float32(INKS[map]), (side, side, 3)), _ink_mask(map, kind, side)])
    else:
        raise ValueError(f"map is {map!r}; expected one of depth, {', '.join(INKS)}")
    layer.flags.writeable = False
    return layer


def _picture_layer(kind: str, colour: str | None, side: int) -> np.ndarray:
    if kind in THINGS:
        return thing_picture(kind, side).copy()
    ink = PERSON_COLOUR if kind in PEOPLE else {**COLOURS, **MORE_COLOURS}[colour or ""]
    return np.dstack([np.broadcast_to(np.float32(ink), (side, side, 3)), shape_mask(kind, side)])


@cache
def _ink_mask(map: str, kind: str, side: int) -> np.ndarray:
    if map == "pose":
        return _sampled(side, lambda u, v: _skeleton(kind, u, v))
    return _edges(kind, side) if map == "canny" else _soft_outline(shape_mask(kind, side))


def _edges(kind: str, side: int) -> np.ndarray:
    """Canny's edges of an object on a neutral ground, those inside it too."""
    layer = _picture_layer(kind, "red" if kind in SHAPES else None, side)
    field = np.full((side + 2 * GRID, side + 2 * GRID, 3), np.float32(NEUTRAL), np.float32)
    patch = field[GRID:-GRID, GRID:-GRID]
    patch += layer[..., 3:] * (layer[..., :3] - patch)
    edges = canny((field + 0.5).astype(np.uint8))
    return np.float32(edges[GRID:-GRID, GRID:-GRID, 0] > 0)


@cache
def shape_mask(kind: str, side: int) -> np.ndarray:
    """Share of each pixel that an object covers in its box of `side` px: float32 [side, side], read-only.

    Raises ValueError for a kind that is not in KINDS.
    """
    if kind in THINGS:
        return thing_picture(kind, side)[..., 3]
    grown = side / (side - 2 * MARGIN)
    return _sampled(side, lambda u, v: _inside(kind, u * grown, v * grown))


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
    raise ValueError(f"kind is {shape!r}; expected one of {', '.join(KINDS)}")


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


def _soft_outline(mask: np.ndarray) -> np.ndarray:
    """How near the blurred mask is to one half."""
    soft = np.pad(mask, 3)
    for axis in (0, 1, 0, 1):
        soft = (np.roll(soft, 1, axis) + 2 * soft + np.roll(soft, -1, axis)) / 4
    soft = soft[3:-3, 3:-3]
    return np.round(4 * soft * (1 - soft) * 15) / 15
