"""The looks of one 8x8 cell of a picture or map: the demo codec's codes, and what its codebook starts from.

Objects lie on the grid of cells, so a cell shows ground, a place where an object begins, or one cell of one object. One
code for each look, independent of its neighbours, makes codes easy to predict.

The cell at the left of an object's first one has a code of its own, whatever the object is: it looks like bare ground,
and says only that an object begins. So where an object stands is chosen before what it is, and guidance, which
magnifies what the text says of the object, has nothing to say about the place.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from .palette import (
    BACKGROUNDS,
    CELLS,
    COLOURS,
    DEPTH_GREYS,
    DETAILS,
    GRID,
    KINDS,
    MAPS,
    PEOPLE,
    PLACES,
    SIZES,
    is_coloured,
    sizes_of,
)
from .renderer import ground_looks, object_layer
from .scenes import Scene

GROUND, BEGINS, OBJECT = "ground", "begins", "object"
STYLES = (GROUND, BEGINS, OBJECT, *MAPS)
VECTOR_SIZE = 16
NEUTRAL = 128.0
EMPTY, FULL = 1e-3, 1 - 1e-3


@dataclass(frozen=True)
class Look:
    """What a code stands for; None where it does not matter.

    `style` is GROUND, BEGINS, OBJECT (a cell of an object in a picture) or the name of a map. `row` and `column` count
    the cells of the object's box. A depth map's cell without a kind is one that its object covers whole, whatever the
    object is.
    """

    style: str
    ground: str | None = None
    detail: int | None = None
    kind: str | None = None
    colour: str | None = None
    size: str | None = None
    row: int | None = None
    column: int | None = None


# The values of each factor of a look, in the order of the fields of `Look`; KIND is the place of its kind.
FACTORS: tuple[tuple[object, ...], ...] = (
    STYLES,
    tuple(BACKGROUNDS),
    tuple(range(DETAILS)),
    KINDS,
    tuple(COLOURS),
    tuple(SIZES),
    tuple(range(max(SIZES.values()) // GRID)),
    tuple(range(max(SIZES.values()) // GRID)),
)
KIND = 3
MAP_GROUND = Look(GROUND, "black", 0)


@cache
def looks() -> tuple[Look, ...]:
    """What every code stands for. A map's empty cell is that of a black picture."""
    found = [Look(GROUND, name, detail) for name in BACKGROUNDS for detail in range(DETAILS if name in PLACES else 1)]
    found.append(Look(BEGINS))
    seen = dict.fromkeys(found)
    for map in (None, *MAPS):
        for kind in KINDS:
            for colour in tuple(COLOURS) if map is None and is_coloured(kind) else (None,):
                for size in sizes_of(kind):
                    seen |= dict.fromkeys(look for row in _object_looks(map, kind, colour, size) for look in row)
    return tuple(seen)


@cache
def _object_looks(map: str | None, kind: str, colour: str | None, size: str) -> list[list[Look]]:
    count = SIZES[size] // GRID
    return [[_object_look(map, kind, colour, size, y, x) for x in range(count)] for y in range(count)]


def _object_look(map: str | None, kind: str, colour: str | None, size: str, row: int, column: int) -> Look:
    if map is None:
        return Look(OBJECT, None, None, kind, colour, size, row, column)
    if map == "pose" and kind not in PEOPLE:
        return MAP_GROUND
    cover = object_layer(map, kind, None, size, SIZES[size])[..., 3]
    cell = cover[row * GRID : (row + 1) * GRID, column * GRID : (column + 1) * GRID]
    if cell.max() < EMPTY:
        return MAP_GROUND
    if map == "depth" and cell.min() > FULL:
        return Look(map, size=size)
    return Look(map, None, None, kind, None, size, row, column)


@cache
def code_factors() -> np.ndarray:
    """The factors of every code's look, int64 [codes, 9]: an index into FACTORS, counted from 1, and 0 for None.

    The last one is that of kind, colour and size together: what a sum of the three cannot say is that a picture has a
    red circle or a blue square, but no blue circle.
    """
    fields = [tuple(vars(look).values()) for look in looks()]
    numbers = [{value: number for number, value in enumerate(values, 1)} | {None: 0} for values in FACTORS]
    found = np.array([[number[value] for number, value in zip(numbers, row, strict=True)] for row in fields])
    whole = {one: number for number, one in enumerate(dict.fromkeys(_whole(look) for look in looks()))}
    return np.concatenate([found, [[whole[_whole(look)]] for look in looks()]], axis=1)


def _whole(look: Look) -> tuple[str | None, ...]:
    return look.kind, look.colour, look.size


@cache
def _index() -> dict[Look, int]:
    return {look: code for code, look in enumerate(looks())}


def scene_codes(scene: Scene, map: str | None = None) -> np.ndarray:
    """The code of every cell of a scene's picture or map, int64 [12, 12].

    Raises ValueError for an object in the first column, which leaves no cell where it begins.
    """
    if map is None:
        details = np.frombuffer(scene.details, np.uint8).reshape(CELLS, CELLS)
        codes = _index()[Look(GROUND, scene.background, 0)] + details.astype(np.int64)
    else:
        codes = np.full((CELLS, CELLS), _index()[MAP_GROUND])
    for thing in scene.objects:
        y, x, count = thing.y // GRID, thing.x // GRID, thing.side // GRID
        if x < 1:
            raise ValueError(f"an object is at x = {thing.x}; expected {GRID} or more")
        codes[y : y + count, x : x + count] = _object_codes(map, thing.kind, thing.colour, thing.size)
        if map is None:
            codes[y, x - 1] = begins_code()
    return codes


def begins_code() -> int:
    """The code of the cell at the left of an object's first one."""
    return _index()[Look(BEGINS)]


@cache
def _object_codes(map: str | None, kind: str, colour: str | None, size: str) -> np.ndarray:
    colour = colour if map is None else None
    return np.array([[_index()[look] for look in row] for row in _object_looks(map, kind, colour, size)])


@cache
def code_vectors() -> np.ndarray:
    """Vectors from which the codebook is trained, float32 [codes, 16], of about unit variance.

    The first principal components of what a cell and its neighbours show, and of its factors.
    """
    seen = np.stack([_surroundings(look) for look in looks()])
    rng = np.random.default_rng(0)
    factors = code_factors()[:, : len(FACTORS)]
    known = np.concatenate(
        [rng.standard_normal((factors[:, i].max() + 1, 6))[factors[:, i]] for i in range(factors.shape[1])], 1
    )
    parts = [_principal(seen, VECTOR_SIZE - 6), _principal(known, 6)]
    return np.concatenate(parts, 1).astype(np.float32)


def _principal(values: np.ndarray, count: int) -> np.ndarray:
    centred = values - values.mean(0)
    axes, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    found = axes[:, :count] * np.sqrt(sizes[:count])
    return found / found.std(0).mean()


def _surroundings(look: Look) -> np.ndarray:
    """Colours of a look's cell and the cells around it in blocks of 4 px, float32 [108] in 0…1."""
    field = np.full((7 * GRID, 7 * GRID, 3), NEUTRAL, np.float32)
    row, column = 0, 0
    if look.style == GROUND:
        field[:] = BACKGROUNDS[look.ground or "black"]
        field[GRID : 2 * GRID, GRID : 2 * GRID] = ground_looks(look.ground or "black")[look.detail or 0]
    elif look.kind is None:
        field[:] = NEUTRAL if look.style == BEGINS else DEPTH_GREYS[look.size or "large"]
    else:
        assert look.size is not None and look.row is not None and look.column is not None
        map, side = (None if look.style == OBJECT else look.style), SIZES[look.size]
        field[:] = NEUTRAL if map is None else 0
        layer = object_layer(map, look.kind, look.colour, look.size, side)
        patch = field[GRID : GRID + side, GRID : GRID + side]
        patch += layer[..., 3:] * (layer[..., :3] - patch)
        row, column = look.row, look.column
    cut = field[row * GRID : (row + 3) * GRID, column * GRID : (column + 3) * GRID]
    return cut.reshape(6, 4, 6, 4, 3).mean((1, 3)).ravel() / 255
