"""Scenes of the demo world, the claims of captions, and random scenes for a claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

import numpy as np

from .palette import (
    BACKGROUNDS,
    BARE_SHARE,
    CANVAS,
    CATEGORIES,
    CELLS,
    COLOURS,
    COLUMNS,
    DETAILS,
    GRID,
    KINDS,
    PLACES,
    RELATIONS,
    ROWS,
    SHAPES,
    SIZES,
    THINGS,
    is_coloured,
    sizes_of,
)

SIZE_STATED = 0.2
BACKGROUND_STATED = 0.4
PLACE_STATED = 0.25
COUNTING_COLOUR_STATED = 0.5
POSITION_COLOURS_STATED = 0.7
SHAPE_SHARE = 0.25
MIN_ALONG = 28
MAX_ACROSS = 12
TRIES = 40

Item = TypeVar("Item")
Box = tuple[tuple[int, int], int]


@dataclass(frozen=True)
class SceneObject:
    """One thing, shape or person; `x`, `y` is the top left corner of its box in pixels, `size` a name in SIZES.

    `colour` is a name in COLOURS for a shape, and None for what has its own colours.
    """

    kind: str
    colour: str | None
    size: str
    x: int
    y: int

    @property
    def side(self) -> int:
        """Side of the box in pixels."""
        return SIZES[self.size]


@dataclass(frozen=True)
class Scene:
    """A picture of the demo world: a background and objects that do not overlap.

    `details` are the looks of the background's cells, one byte for each in reading order, 0 for a bare one; cells of an
    object's box are bare.
    """

    background: str
    objects: tuple[SceneObject, ...]
    details: bytes = bytes(CELLS * CELLS)


@dataclass(frozen=True)
class Claim:
    """What a caption states of one kind of object; None where it states nothing."""

    count: int
    kind: str
    colour: str | None = None
    size: str | None = None


@dataclass(frozen=True)
class Spec:
    """All that a caption states; `relation` is that of the first claim's object to the second's.

    `where` is the third of the canvas (column, row) in which the centre of the only object is.
    """

    category: str
    claims: tuple[Claim, ...]
    relation: str | None = None
    background: str | None = None
    where: tuple[str, str] | None = None


def pick(rng: np.random.Generator, items: Sequence[Item]) -> Item:
    """One item, all equally likely."""
    return items[int(rng.integers(len(items)))]


def pick_weighted(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    """One name, each as likely as its weight; the weights sum to 1."""
    shares = np.cumsum(list(weights.values()))
    return list(weights)[int(np.searchsorted(shares[:-1], rng.random(), side="right"))]


def pick_distinct(rng: np.random.Generator, items: Sequence[Item], count: int) -> list[Item]:
    """`count` different items in random order, all choices equally likely."""
    return [items[int(index)] for index in rng.permutation(len(items))[:count]]


def pick_kinds(rng: np.random.Generator, count: int) -> list[str]:
    """`count` different kinds, mostly things, some shapes."""
    kinds: list[str] = []
    while len(kinds) < count:
        kind = pick(rng, SHAPES) if rng.random() < SHAPE_SHARE else pick(rng, tuple(THINGS))
        if kind not in kinds:
            kinds.append(kind)
    return kinds


def sample_spec(rng: np.random.Generator, category: str) -> Spec:
    """A random claim of the category: one of CATEGORIES or `mixed`. Raises ValueError for any other."""
    claims = _sample_claims(rng, category)
    relation = pick(rng, RELATIONS) if category == "position" else None
    background = pick(rng, tuple(BACKGROUNDS)) if rng.random() < BACKGROUND_STATED else None
    alone = category in ("single_object", "colours")
    where = (pick(rng, COLUMNS), pick(rng, ROWS)) if alone and rng.random() < PLACE_STATED else None
    return Spec(category, claims, relation, background, where)


def _sample_claims(rng: np.random.Generator, category: str) -> tuple[Claim, ...]:
    if category == "single_object":
        return _claims(rng, pick_kinds(rng, 1), coloured=False)
    if category == "colours":
        return _claims(rng, pick_distinct(rng, SHAPES, 1), coloured=True)
    if category == "counting":
        coloured = rng.random() < COUNTING_COLOUR_STATED
        return _claims(rng, pick_kinds(rng, 1), coloured, count=int(rng.integers(1, 5)))
    if category == "mixed":
        return _claims(rng, pick_kinds(rng, int(rng.integers(3, 5))), coloured=True)
    if category == "colour_attribution":
        return _claims(rng, pick_distinct(rng, SHAPES, 2), coloured=True)
    if category in ("two_objects", "position"):
        stated = {"two_objects": 0.0, "position": POSITION_COLOURS_STATED}[category]
        return _claims(rng, pick_kinds(rng, 2), coloured=rng.random() < stated)
    raise ValueError(f"category is {category!r}; expected one of {', '.join(CATEGORIES)} or mixed")


def _claims(rng: np.random.Generator, kinds: Sequence[str], coloured: bool, count: int = 1) -> tuple[Claim, ...]:
    colours = pick_distinct(rng, tuple(COLOURS), len(kinds))
    many = count > 2 or len(kinds) > 2
    return tuple(
        Claim(count, kind, colour if coloured and is_coloured(kind) else None, _stated_size(rng, many))
        for kind, colour in zip(kinds, colours, strict=True)
    )


def _stated_size(rng: np.random.Generator, many: bool) -> str | None:
    if rng.random() >= SIZE_STATED:
        return None
    return "small" if many else pick(rng, ("small", "large"))


def place(rng: np.random.Generator, spec: Spec) -> Scene:
    """A random scene of which the claim is true: whatever it leaves open is random.

    Objects of one kind share colour and size. Corners lie on the 8 px grid, and boxes keep a cell apart sideways.
    """
    while True:
        scene = try_to_place(rng, spec)
        if scene is not None:
            return scene


def in_reading_order(spec: Spec, scene: Scene) -> Spec:
    """The spec with its claims in the order in which their objects stand in the scene, line by line.

    A picture is drawn in that order. So what a caption names first is drawn first, and a model learns which colour goes
    with which shape from their order alone. Claims of several objects, and those of a relation, stay where they are.
    """
    if spec.relation or len(spec.claims) != len(scene.objects):
        return spec
    pairs = sorted(zip(scene.objects, spec.claims, strict=True), key=lambda pair: (pair[0].y, pair[0].x))
    return replace(spec, claims=tuple(claim for _, claim in pairs))


MOST_OBJECTS = 4
STATED_VALUES = (len(KINDS) + 1, len(COLOURS) + 1, len(SIZES) + 1) * MOST_OBJECTS


def drawn_claims(spec: Spec) -> tuple[Claim, ...]:
    """The claim of each object of a spec in reading order, in the order in which the objects are drawn."""
    claims = tuple(claim for claim in spec.claims for _ in range(claim.count))
    return claims[::-1] if spec.relation in ("right of", "below") else claims


def stated_numbers(claims: Sequence[Claim | None]) -> list[int]:
    """What claims state, a number below each of STATED_VALUES.

    Kind, colour and size of up to four objects, from 1; 0 where nothing is stated.
    """
    numbers = []
    for claim in claims:
        said = (claim.kind, claim.colour, claim.size) if claim else (None, None, None)
        for names, name in zip((KINDS, tuple(COLOURS), tuple(SIZES)), said, strict=True):
            numbers.append(0 if name is None else names.index(name) + 1)
    return numbers + [0] * (len(STATED_VALUES) - len(numbers))


def try_to_place(rng: np.random.Generator, spec: Spec) -> Scene | None:
    """As `place`, but None where no room was found in some tries."""
    looks = [look for claim in spec.claims for look in [_complete(rng, claim)] * claim.count]
    sides = tuple(SIZES[size] for _, _, size in looks)
    corners = _corners_for(rng, sides, spec)
    if corners is None:
        return None
    objects = tuple(SceneObject(*look, *corner) for look, corner in zip(looks, corners, strict=True))
    background = spec.background or pick(rng, tuple(BACKGROUNDS))
    return with_details(rng, Scene(background, objects))


def with_details(rng: np.random.Generator, scene: Scene, like: Scene | None = None) -> Scene:
    """The scene with random details of its background where no object is; those of `like` where both have ground."""
    details = np.zeros((CELLS, CELLS), np.uint8)
    if scene.background in PLACES:
        details[rng.random(details.shape) >= BARE_SHARE] = 1
        details *= rng.integers(1, DETAILS, details.shape, dtype=np.uint8)
        if like is not None:
            ground = ground_cells(like)
            details[ground] = np.frombuffer(like.details, np.uint8).reshape(details.shape)[ground]
        details[~ground_cells(scene)] = 0
    return Scene(scene.background, scene.objects, details.tobytes())


def ground_cells(scene: Scene) -> np.ndarray:
    """Whether each cell shows the background alone, bool [12, 12]: it is in no object's box nor where one begins."""
    ground = np.ones((CELLS, CELLS), bool)
    for thing in scene.objects:
        y, x, count = thing.y // GRID, thing.x // GRID, thing.side // GRID
        ground[y : y + count, x : x + count] = False
        ground[y, x - 1] = False
    return ground


def _complete(rng: np.random.Generator, claim: Claim) -> tuple[str, str | None, str]:
    colour = claim.colour or (pick(rng, tuple(COLOURS)) if is_coloured(claim.kind) else None)
    return claim.kind, colour, claim.size or pick(rng, sizes_of(claim.kind))


def _corners_for(rng: np.random.Generator, sides: tuple[int, ...], spec: Spec) -> list[tuple[int, int]] | None:
    if spec.relation:
        pairs = _related_corners(sides[0], sides[1], spec.relation)
        return list(pick(rng, pairs)) if pairs else None
    if spec.where:
        return [pick(rng, [corner for corner in _corners(sides[0]) if where(corner, sides[0]) == spec.where])]
    return scattered(rng, sides, [])


def where(corner: tuple[int, int], side: int) -> tuple[str, str]:
    """The thirds of the canvas, column and row, in which a box's centre is."""
    x, y = (
        min(int(3 * (start + side / 2 - low) / (CANVAS - low)), 2) for start, low in zip(corner, (GRID, 0), strict=True)
    )
    return COLUMNS[x], ROWS[y]


@cache
def _related_corners(first: int, second: int, relation: str) -> tuple[tuple[tuple[int, int], tuple[int, int]], ...]:
    pairs = [(a, b) for a in _corners(first) for b in _corners(second)]
    return tuple((a, b) for a, b in pairs if apart(a, first, b, second) and _holds(a, first, b, second, relation))


def _holds(a: tuple[int, int], first: int, b: tuple[int, int], second: int, relation: str) -> bool:
    """Of two beside each other, the left one does not begin lower: so the relation alone says which is drawn first."""
    along, across = offsets(a[0] - b[0] + (first - second) / 2, a[1] - b[1] + (first - second) / 2, relation)
    left, right = (b, a) if relation == "right of" else (a, b)
    drawn_first = relation in ("above", "below") or left[1] <= right[1]
    return along >= MIN_ALONG and across <= MAX_ACROSS and drawn_first


def offsets(dx: float, dy: float, relation: str) -> tuple[float, float]:
    """How far (px) an object at (dx, dy) from another lies in the relation's direction, and how far off its axis."""
    if relation not in RELATIONS:
        raise ValueError(f"relation is {relation!r}; expected one of {', '.join(RELATIONS)}")
    along = {"left of": -dx, "right of": dx, "above": -dy, "below": dy}[relation]
    return along, abs(dy if relation in ("left of", "right of") else dx)


def scattered(rng: np.random.Generator, sides: tuple[int, ...], placed: list[Box]) -> list[tuple[int, int]] | None:
    """Corners for boxes of these sides (px), anywhere apart from those `placed` and from one another.

    All choices are equally likely. None where none was found in some tries.
    """
    for _ in range(TRIES):
        corners = [pick(rng, _corners(side)) for side in sides]
        boxes = [*placed, *zip(corners, sides, strict=True)]
        if all(apart(*a, *b) for number, a in enumerate(boxes) for b in boxes[:number]):
            return corners
    return None


@cache
def _corners(side: int) -> tuple[tuple[int, int], ...]:
    """Corners of a box; the first column of cells stays free, see `cells.py`."""
    return tuple((x, y) for y in range(0, CANVAS - side + 1, GRID) for x in range(GRID, CANVAS - side + 1, GRID))


def inside(x: int, y: int, side: int) -> bool:
    """Whether a box may have its corner there."""
    return (x, y) in _corners(side)


def apart(a: tuple[int, int], first: int, b: tuple[int, int], second: int) -> bool:
    """Whether two boxes of corners `a`, `b` and sides `first`, `second` (px) are apart: sideways by a cell."""
    sideways = a[0] + first + GRID <= b[0] or b[0] + second + GRID <= a[0]
    return sideways or a[1] + first <= b[1] or b[1] + second <= a[1]
