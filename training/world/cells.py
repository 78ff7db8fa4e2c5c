"""The looks of one 8x8 cell of a picture or map, and a vector of four values for each: the demo codec's codebook.

Objects lie on the grid of cells, so a cell shows plain ground, an object's inside, or one of a few dozen edges in some
colour on some ground. One code for each look, independent of its neighbours, makes codes easy to predict.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from .palette import BACKGROUNDS, CANVAS, COLOURS, DEPTH_GREYS, GRID, INKS, MAPS, PEOPLE, SHAPES, SIZES
from .renderer import layer_mask
from .scenes import PERSON_SIZE, Scene, SceneObject

EMPTY, FULL = 0, 1
CELLS = CANVAS // GRID
MAP_GROUND = len(BACKGROUNDS)
MAP_INKS = (*DEPTH_GREYS, *INKS)


@dataclass(frozen=True)
class Look:
    """A cell of a picture (`map` None) or map: its number in `masks(map)`, and which ink covers how much of the ground.

    `ink` is a name in COLOURS, DEPTH_GREYS or INKS, `ground` one in BACKGROUNDS; None where the cell shows none.
    """

    map: str | None
    mask: int
    ink: str | None
    ground: str | None


@cache
def masks(map: str | None) -> tuple[np.ndarray, ...]:
    """Every different share [8,8] of a cell that an object covers; the empty and the full one come first."""
    found = [np.zeros((GRID, GRID), np.float32), np.ones((GRID, GRID), np.float32)]
    seen = {_key(mask) for mask in found}
    for shape, size in KINDS:
        for mask in _cells_of(map, shape, SIZES[size]).reshape(-1, GRID, GRID):
            if _key(mask) not in seen:
                seen.add(_key(mask))
                found.append(mask)
    return tuple(found)


KINDS = (*((shape, size) for shape in SHAPES for size in SIZES), *((person, PERSON_SIZE) for person in PEOPLE))


@cache
def looks() -> tuple[Look, ...]:
    """What every code stands for. A map's empty cell is that of a black picture."""
    found = [Look(None, EMPTY, None, ground) for ground in BACKGROUNDS]
    found += [Look(None, FULL, colour, None) for colour in COLOURS]
    edges = range(2, len(masks(None)))
    found += [Look(None, mask, colour, ground) for mask in edges for colour in COLOURS for ground in BACKGROUNDS]
    for grey in DEPTH_GREYS:
        found.append(Look("depth", FULL, grey, None))
        found += [Look("depth", mask, grey, "black") for mask in edges]
    for map in INKS:
        found += [Look(map, mask, map, "black") for mask in range(2, len(masks(map)))]
    return tuple(found)


@cache
def code_vectors() -> np.ndarray:
    """The codebook, float32 [codes, 4] in [-1, 1]: ink, ground, and the mask's place in a square by its likeness.

    Maps have a level of their own on the axis of grounds.
    """
    places = {map: _mask_places(map) for map in (None, *MAPS)}
    return np.stack([np.append(_levels(look), places[look.map][look.mask]) for look in looks()]).astype(np.float32)


def _levels(look: Look) -> tuple[float, float]:
    if look.map is not None:
        return _level(MAP_INKS.index(look.ink), len(MAP_INKS)), _level(MAP_GROUND, MAP_GROUND + 1)
    ink = 0 if look.ink is None else _level(list(COLOURS).index(look.ink), len(COLOURS))
    return ink, 0 if look.ground is None else _level(list(BACKGROUNDS).index(look.ground), MAP_GROUND + 1)


def scene_codes(scene: Scene, map: str | None = None) -> np.ndarray:
    """The code of every cell of a scene's picture or map, int64 [8, 8]."""
    ground = scene.background if map is None else "black"
    codes = np.full((CELLS, CELLS), _index()[Look(None, EMPTY, None, ground)])
    for thing in scene.objects:
        y, x, count = thing.y // GRID, thing.x // GRID, thing.side // GRID
        codes[y : y + count, x : x + count] = _object_codes(map, thing, ground)
    return codes


def _object_codes(map: str | None, thing: SceneObject, ground: str) -> np.ndarray:
    ink = thing.colour if map is None else thing.size if map == "depth" else map
    numbers = _mask_numbers(map, thing.shape, thing.side)
    return np.array([[_index()[_look(map, mask, ink, ground)] for mask in row] for row in numbers])


def _look(map: str | None, mask: int, ink: str, ground: str) -> Look:
    if mask == EMPTY:
        return Look(None, EMPTY, None, ground)
    return Look(map, mask, ink, None if mask == FULL else ground)


@cache
def _mask_numbers(map: str | None, shape: str, side: int) -> list[list[int]]:
    numbers = {_key(mask): number for number, mask in enumerate(masks(map))}
    return [[numbers[_key(cell)] for cell in row] for row in _cells_of(map, shape, side)]


@cache
def _index() -> dict[Look, int]:
    return {look: code for code, look in enumerate(looks())}


def _cells_of(map: str | None, shape: str, side: int) -> np.ndarray:
    """Cells [n,n,8,8] of a shape's mask."""
    count = side // GRID
    return layer_mask(map, shape, side).reshape(count, GRID, count, GRID).transpose(0, 2, 1, 3)


def _key(mask: np.ndarray) -> bytes:
    return np.rint(mask * 255).astype(np.uint8).tobytes()


def _mask_places(map: str | None) -> np.ndarray:
    """A place [masks,2] on an even square grid for every mask: rows by its first principal component, then columns."""
    flat = np.stack([mask.ravel() for mask in masks(map)])
    _, _, axes = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    first, second = (flat @ axes[:2].T).T
    side = int(np.ceil(np.sqrt(len(flat))))
    places = np.zeros((len(flat), 2), np.float32)
    for row, members in enumerate(np.array_split(np.argsort(first), side)):
        for column, mask in enumerate(members[np.argsort(second[members])]):
            places[mask] = _level(row, side), _level(column, side)
    return places


def _level(number: int, count: int) -> float:
    return 2 * number / (count - 1) - 1
