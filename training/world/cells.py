"""The looks of one 8x8 cell of a scene, and a place in four dimensions for each: the demo codec's codebook.

Objects lie on the grid of cells, so a cell shows plain ground, an object's inside, or one of a few dozen edges in some
colour on some ground. One code for each look, whatever is around it, makes pictures easy to predict code by code.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from .palette import BACKGROUNDS, CANVAS, COLOURS, GRID, SHAPES, SIZES
from .renderer import shape_mask
from .scenes import Scene, SceneObject

EMPTY, FULL = 0, 1
CELLS = CANVAS // GRID


@cache
def masks() -> tuple[np.ndarray, ...]:
    """Every different share [8,8] of a cell that an object covers; the empty and the full one come first."""
    found = {EMPTY: np.zeros((GRID, GRID), np.float32), FULL: np.ones((GRID, GRID), np.float32)}
    seen = {_key(mask) for mask in found.values()}
    for shape in SHAPES:
        for side in SIZES.values():
            for mask in _cells_of(shape, side).reshape(-1, GRID, GRID):
                if _key(mask) not in seen:
                    seen.add(_key(mask))
                    found[len(found)] = mask
    return tuple(found.values())


@cache
def looks() -> tuple[tuple[int, int, int], ...]:
    """(mask, colour, ground) of every code; 0 where a look has no colour, or shows no ground."""
    colours, grounds = range(len(COLOURS)), range(len(BACKGROUNDS))
    empty = [(EMPTY, 0, ground) for ground in grounds]
    full = [(FULL, colour, 0) for colour in colours]
    return (*empty, *full, *((mask, c, g) for mask in range(2, len(masks())) for c in colours for g in grounds))


@cache
def code_vectors() -> np.ndarray:
    """The codebook, float32 [codes, 4] in [-1, 1]: colour, ground, and the mask's place in a square by its likeness."""
    places, vectors = _mask_places(), np.zeros((len(looks()), 4), np.float32)
    for index, (mask, colour, ground) in enumerate(looks()):
        vectors[index, 0] = 0 if mask == EMPTY else _level(colour, len(COLOURS))
        vectors[index, 1] = 0 if mask == FULL else _level(ground, len(BACKGROUNDS))
        vectors[index, 2:] = places[mask]
    return vectors


def scene_codes(scene: Scene) -> np.ndarray:
    """The code of every cell, int64 [8, 8]."""
    ground = list(BACKGROUNDS).index(scene.background)
    codes = np.full((CELLS, CELLS), _index()[EMPTY, 0, ground])
    for thing in scene.objects:
        y, x, count = thing.y // GRID, thing.x // GRID, thing.side // GRID
        codes[y : y + count, x : x + count] = _object_codes(thing, ground)
    return codes


def _object_codes(thing: SceneObject, ground: int) -> np.ndarray:
    colour = list(COLOURS).index(thing.colour)
    return np.array(
        [
            [_index()[mask, 0 if mask == EMPTY else colour, 0 if mask == FULL else ground] for mask in row]
            for row in _mask_numbers(thing.shape, thing.side)
        ]
    )


@cache
def _mask_numbers(shape: str, side: int) -> list[list[int]]:
    numbers = {_key(mask): number for number, mask in enumerate(masks())}
    return [[numbers[_key(cell)] for cell in row] for row in _cells_of(shape, side)]


@cache
def _index() -> dict[tuple[int, int, int], int]:
    return {look: code for code, look in enumerate(looks())}


def _cells_of(shape: str, side: int) -> np.ndarray:
    """Cells [n,n,8,8] of a shape's mask."""
    count = side // GRID
    return shape_mask(shape, side).reshape(count, GRID, count, GRID).transpose(0, 2, 1, 3)


def _key(mask: np.ndarray) -> bytes:
    return np.rint(mask * 255).astype(np.uint8).tobytes()


def _mask_places() -> np.ndarray:
    """A place [masks,2] on an even square grid for every mask: rows by its first principal component, then columns."""
    flat = np.stack([mask.ravel() for mask in masks()])
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
