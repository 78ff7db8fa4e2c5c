"""Scenes of the demo world, the claims of captions, and random scenes for a claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np

from .palette import BACKGROUNDS, CANVAS, CATEGORIES, COLOURS, GRID, RELATIONS, SHAPES, SIZES

SIZE_STATED = 0.2
BACKGROUND_STATED = 0.3
COUNTING_COLOUR_STATED = 0.5
POSITION_COLOURS_STATED = 0.7
MIN_ALONG = 24
MAX_ACROSS = 8
PERSON_SIZE = "large"
PACKED = 0.35

Item = TypeVar("Item")
Box = tuple[tuple[int, int], int]


@dataclass(frozen=True)
class SceneObject:
    """One flat shape; `x`, `y` is the top left corner of its box in pixels, `size` a name in SIZES."""

    shape: str
    colour: str
    size: str
    x: int
    y: int

    @property
    def side(self) -> int:
        """Side of the box in pixels."""
        return SIZES[self.size]


@dataclass(frozen=True)
class Scene:
    """A picture of the demo world: a flat background and one to four objects that do not touch."""

    background: str
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True)
class Claim:
    """What a caption states of one kind of object; None where it states nothing."""

    count: int
    shape: str
    colour: str | None = None
    size: str | None = None


@dataclass(frozen=True)
class Spec:
    """All that a caption states; `relation` is that of the first claim's object to the second's."""

    category: str
    claims: tuple[Claim, ...]
    relation: str | None = None
    background: str | None = None


def pick(rng: np.random.Generator, items: Sequence[Item]) -> Item:
    """One item, all equally likely."""
    return items[int(rng.integers(len(items)))]


def pick_distinct(rng: np.random.Generator, items: Sequence[Item], count: int) -> list[Item]:
    """`count` different items in random order, all choices equally likely."""
    return [items[int(index)] for index in rng.permutation(len(items))[:count]]


def sample_spec(rng: np.random.Generator, category: str) -> Spec:
    """A random claim of the category: one of CATEGORIES or `mixed`. Raises ValueError for any other."""
    claims = _sample_claims(rng, category)
    relation = pick(rng, RELATIONS) if category == "position" else None
    background = pick(rng, tuple(BACKGROUNDS)) if rng.random() < BACKGROUND_STATED else None
    return Spec(category, claims, relation, background)


def _sample_claims(rng: np.random.Generator, category: str) -> tuple[Claim, ...]:
    if category in ("single_object", "colours"):
        return _claims(rng, 1, coloured=category == "colours")
    if category == "counting":
        coloured = rng.random() < COUNTING_COLOUR_STATED
        return _claims(rng, 1, coloured, count=int(rng.integers(1, 5)))
    if category == "mixed":
        return _claims(rng, int(rng.integers(3, 5)), coloured=True)
    if category in ("two_objects", "position", "colour_attribution"):
        stated = {"two_objects": 0.0, "position": POSITION_COLOURS_STATED, "colour_attribution": 1.0}[category]
        return _claims(rng, 2, coloured=rng.random() < stated)
    raise ValueError(f"category is {category!r}; expected one of {', '.join(CATEGORIES)} or mixed")


def _claims(rng: np.random.Generator, kinds: int, coloured: bool, count: int = 1) -> tuple[Claim, ...]:
    shapes = pick_distinct(rng, SHAPES, kinds)
    colours = pick_distinct(rng, tuple(COLOURS), kinds) if coloured else [None] * kinds
    return tuple(Claim(count, shape, colour, _stated_size(rng)) for shape, colour in zip(shapes, colours, strict=True))


def _stated_size(rng: np.random.Generator) -> str | None:
    return pick(rng, tuple(SIZES)) if rng.random() < SIZE_STATED else None


def place(rng: np.random.Generator, spec: Spec) -> Scene:
    """A random scene of which the claim is true: whatever it leaves open is random.

    Objects of one kind share colour and size. Corners lie on the 8 px grid, boxes keep a gap of at least 8 px.
    """
    kinds = [kind for claim in spec.claims for kind in [_complete(rng, claim)] * claim.count]
    sides = tuple(SIZES[size] for _, _, size in kinds)
    corners = _related(rng, sides, spec.relation) if spec.relation else _scattered(rng, sides)
    objects = [SceneObject(*kind, *corner) for kind, corner in zip(kinds, corners, strict=True)]
    background = spec.background or pick(rng, tuple(BACKGROUNDS))
    return Scene(background, tuple(objects))


def _complete(rng: np.random.Generator, claim: Claim) -> tuple[str, str, str]:
    colour = claim.colour or pick(rng, tuple(COLOURS))
    return claim.shape, colour, claim.size or pick(rng, tuple(SIZES))


def _related(rng: np.random.Generator, sides: tuple[int, ...], relation: str) -> tuple[tuple[int, int], ...]:
    return pick(rng, _related_corners(sides[0], sides[1], relation))


@cache
def _related_corners(first: int, second: int, relation: str) -> tuple[tuple[tuple[int, int], tuple[int, int]], ...]:
    pairs = [(a, b) for a in _corners(first) for b in _corners(second)]
    return tuple((a, b) for a, b in pairs if apart(a, first, b, second) and _holds(a, first, b, second, relation))


def _holds(a: tuple[int, int], first: int, b: tuple[int, int], second: int, relation: str) -> bool:
    along, across = offsets(a[0] - b[0] + (first - second) / 2, a[1] - b[1] + (first - second) / 2, relation)
    return along >= MIN_ALONG and across <= MAX_ACROSS


def offsets(dx: float, dy: float, relation: str) -> tuple[float, float]:
    """How far (px) an object at (dx, dy) from another lies in the relation's direction, and how far off its axis."""
    if relation not in RELATIONS:
        raise ValueError(f"relation is {relation!r}; expected one of {', '.join(RELATIONS)}")
    along = {"left of": -dx, "right of": dx, "above": -dy, "below": dy}[relation]
    return along, abs(dy if relation in ("left of", "right of") else dx)


def _scattered(rng: np.random.Generator, sides: tuple[int, ...]) -> list[tuple[int, int]]:
    """Corners anywhere, or packed: each object in one of the first few free places in reading order.

    Guidance draws most objects early, so a model that is to count there must have seen many scenes of this kind.
    """
    choices = int(rng.integers(1, 7)) if rng.random() < PACKED else None
    while (corners := scattered(rng, sides, [], choices)) is None:
        pass
    return corners


def scattered(
    rng: np.random.Generator, sides: tuple[int, ...], placed: list[Box], choices: int | None = None
) -> list[tuple[int, int]] | None:
    """Corners for boxes of these sides (px), one after another in one of the first `choices` free places, or any.

    Apart from those `placed` and from one another; None where no place was left.
    """
    corners: list[tuple[int, int]] = []
    for side in sides:
        taken = [*placed, *zip(corners, sides, strict=False)]
        free = [corner for corner in _corners(side) if all(apart(corner, side, *other) for other in taken)]
        if not free:
            return None
        corners.append(pick(rng, free[:choices]))
    return corners


@cache
def _corners(side: int) -> tuple[tuple[int, int], ...]:
    starts = range(0, CANVAS - side + 1, GRID)
    return tuple((x, y) for y in starts for x in starts)


def apart(a: tuple[int, int], first: int, b: tuple[int, int], second: int) -> bool:
    """Whether two boxes of corners `a`, `b` and sides `first`, `second` (px) keep the gap of the grid."""
    return any(a[i] + first + GRID <= b[i] or b[i] + second + GRID <= a[i] for i in (0, 1))
