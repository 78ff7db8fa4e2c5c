"""Reads a picture back into its background and objects: kind, colour, size and place, by plain comparison.

Every object of the world is compared with every place of the grid. Stands blur and noise of a lossy reconstruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from .palette import BACKGROUNDS, CANVAS, CELLS, COLOURS, GRID, KINDS, SIZES, is_coloured, sizes_of
from .renderer import ground_looks, object_layer
from .scenes import Scene, SceneObject

MOST_OFF_A_CELL = 40.0  # Root mean square difference from a background that counts no more than this.
STRAY_CELL = 50.0  # A cell that differs this much from its background shows something.
MIN_LIKENESS = 0.8


@dataclass(frozen=True)
class FoundObject:
    """One object of a picture; `kind` is None where something is there that is like no object of the world.

    `x`, `y` (px) is the centre of its box. `likeness`, at most 1, is the share of the difference between the object and
    bare ground that the picture shows.
    """

    kind: str | None
    colour: str | None
    size: str
    x: float
    y: float
    likeness: float


@dataclass(frozen=True)
class Recognised:
    """What is in a picture."""

    background: str
    objects: tuple[FoundObject, ...]


@dataclass(frozen=True)
class _Stamps:
    """The objects of one size as they look on a background: pixels [n,side²·3], and their energy above bare ground."""

    names: tuple[tuple[str, str | None], ...]
    pixels: np.ndarray
    squares: np.ndarray
    energy: np.ndarray


def recognise(image: np.ndarray, more_colours: Sequence[str] = ()) -> Recognised:
    """Background and objects of a picture, uint8 [96, 96, 3]. Raises ValueError for any other array.

    `more_colours` are names in MORE_COLOURS that shapes may have beside the colours of the world.
    """
    if image.shape != (CANVAS, CANVAS, 3) or image.dtype != np.uint8:
        raise ValueError(f"picture is {image.dtype} {list(image.shape)}; expected uint8 [{CANVAS}, {CANVAS}, 3]")
    pixels = image.astype(np.float32)
    background, differences = _background(pixels)
    found = _objects(pixels, background, tuple(more_colours))
    return Recognised(background, (*found, *_strays(differences, found)))


def scene_of(found: Recognised) -> Scene:
    """The scene that was read from a picture, without details; what is like no object of the world is left out."""
    return Scene(found.background, tuple(_placed(thing) for thing in found.objects if thing.kind is not None))


def _placed(thing: FoundObject) -> SceneObject:
    assert thing.kind is not None
    half = SIZES[thing.size] // 2
    return SceneObject(thing.kind, thing.colour, thing.size, round(thing.x) - half, round(thing.y) - half)


def _background(pixels: np.ndarray) -> tuple[str, np.ndarray]:
    """The background that the cells are least different from, and each cell's difference from it, float32 [12, 12]."""
    cells = pixels.reshape(CELLS, GRID, CELLS, GRID, 3).transpose(0, 2, 1, 3, 4)
    differences = {
        name: np.sqrt(((cells[:, :, None] - ground_looks(name)) ** 2).mean((3, 4, 5))).min(2) for name in BACKGROUNDS
    }
    name = min(differences, key=lambda name: float(np.minimum(differences[name], MOST_OFF_A_CELL).mean()))
    return name, differences[name]


def _objects(pixels: np.ndarray, background: str, more_colours: tuple[str, ...]) -> list[FoundObject]:
    """The objects that explain most of the picture's difference from bare ground, none in another's box."""
    candidates = []
    for size, side in SIZES.items():
        stamps = _stamps(background, size, more_colours)
        places = [(x, y) for y in range(0, CANVAS - side + 1, GRID) for x in range(0, CANVAS - side + 1, GRID)]
        boxes = np.stack([pixels[y : y + side, x : x + side].ravel() for x, y in places])
        errors = (boxes**2).sum(1)[:, None] - 2 * boxes @ stamps.pixels.T + stamps.squares
        likeness = 1 - errors / stamps.energy
        bare = ((boxes - np.tile(np.float32(BACKGROUNDS[background]), side * side)) ** 2).sum(1)
        for place, number in np.argwhere(likeness >= MIN_LIKENESS):
            gain = float(bare[place] - errors[place, number])
            candidates.append((gain, float(likeness[place, number]), places[place], size, stamps.names[number]))
    found: list[FoundObject] = []
    for _, likeness, (x, y), size, (kind, colour) in sorted(candidates, key=lambda one: -one[0]):
        half = SIZES[size] / 2
        thing = FoundObject(kind, colour, size, x + half, y + half, likeness)
        if not any(_overlap(thing, other) for other in found):
            found.append(thing)
    return found


def _overlap(a: FoundObject, b: FoundObject) -> bool:
    reach = (SIZES[a.size] + SIZES[b.size]) / 2
    return abs(a.x - b.x) < reach and abs(a.y - b.y) < reach


@cache
def _stamps(background: str, size: str, more_colours: tuple[str, ...]) -> _Stamps:
    side = SIZES[size]
    names, pixels = [], []
    for kind in KINDS:
        for colour in (*COLOURS, *more_colours) if is_coloured(kind) else (None,):
            if size in sizes_of(kind):
                layer = object_layer(None, kind, colour, size, side)
                ground = np.float32(BACKGROUNDS[background])
                names.append((kind, colour))
                pixels.append((ground + layer[..., 3:] * (layer[..., :3] - ground)).ravel())
    stacked = np.stack(pixels)
    bare = np.tile(np.float32(BACKGROUNDS[background]), side * side)
    return _Stamps(tuple(names), stacked, (stacked**2).sum(1), ((stacked - bare) ** 2).sum(1))


def _strays(differences: np.ndarray, found: Sequence[FoundObject]) -> list[FoundObject]:
    """One object of no kind for each group of cells outside all boxes that do not show ground."""
    left = differences > STRAY_CELL
    for thing in found:
        half = SIZES[thing.size] / 2
        top, start = round(thing.y - half) // GRID, round(thing.x - half) // GRID
        left[top : top + SIZES[thing.size] // GRID, start : start + SIZES[thing.size] // GRID] = False
    groups = []
    for region in label_regions(left):
        y, x = (region.mean(0) + 0.5) * GRID
        groups.append(FoundObject(None, None, "small", float(x), float(y), 0.0))
    return groups


def label_regions(foreground: np.ndarray) -> list[np.ndarray]:
    """The 8-connected regions of a mask, bool [H, W]: for each its places, int [n, 2] as (row, column)."""
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
