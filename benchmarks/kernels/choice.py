"""The fastest tiles and splits in a sweep of the matmuls, in the form of `lumina_core.kernels.tiles`.

A tile belongs to a number of rows and serves all layers. Splits belong to a layer and serve all numbers of rows, so
that every row is rounded alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from . import Figure

# Of a tile's relative error against the reference, as in a kernel's self-test.
TOLERANCE = 0.02
TILE = ("rows", "outputs", "warps", "stages")
Tile = tuple[int, ...]
# By layer, rows, tile and splits: microseconds.
Costs = dict[str, dict[int, dict[tuple[Tile, int], float]]]


@dataclass(frozen=True)
class RowsChoice:
    """For a number of rows: the microseconds of all layers with the tiles in use, and with the best one."""

    rows: int
    in_use: float
    best: float
    tile: Mapping[str, int]


@dataclass(frozen=True)
class KernelChoice:
    """For a kernel: splits by layer, and a tile for each number of rows but those `left_out`, timed for some layers."""

    kernel: str
    splits: Mapping[str, int]
    rows: tuple[RowsChoice, ...]
    left_out: tuple[int, ...] = ()


def choose_tiles(figures: Iterable[Figure], bandwidth: float) -> list[KernelChoice]:
    """The fastest tiles that agree with the reference; partial sums count as read again by the next kernel."""
    timed = [one for one in figures if {"tile", "us", "layer", "off"} <= one.keys()]
    kernels = dict.fromkeys(one["kernel"] for one in timed)
    return [_choose(kernel, [one for one in timed if one["kernel"] == kernel], bandwidth) for kernel in kernels]


def agrees(one: Figure) -> bool:
    """Whether a tile's result agrees with the reference."""
    return isinstance(one.get("off"), float) and one["off"] < TOLERANCE


def _choose(kernel: str, figures: list[Figure], bandwidth: float) -> KernelChoice:
    costs: Costs = {}
    in_use: dict[int, dict[str, float]] = {}
    for one in figures:
        cost = one["us"] + 1e6 * one["sums_bytes"] / bandwidth
        if agrees(one):
            key = tuple(one["tile"][name] for name in TILE), one["tile"]["splits"]
            costs.setdefault(one["layer"], {}).setdefault(one["rows"], {})[key] = cost
        if one["in_use"]:
            in_use.setdefault(one["rows"], {})[one["layer"]] = cost
    # A sweep that was cut short has rows of which not every layer was timed: of those nothing follows.
    layers = {one["layer"] for one in figures}
    complete = [
        rows
        for rows, timed in in_use.items()
        if timed.keys() == layers and all(rows in costs.get(layer, {}) for layer in layers)
    ]
    left_out = tuple(rows for rows in in_use if rows not in complete)
    counts = [sorted({splits for rows in complete for _, splits in by_rows[rows]}) for by_rows in costs.values()]
    all_splits = [dict(zip(costs, each, strict=True)) for each in itertools.product(*counts)]
    if not complete or not all_splits:
        return KernelChoice(kernel, {}, (), left_out)
    best = min(all_splits, key=lambda splits: sum(_best(costs, rows, splits)[0] for rows in complete))
    chosen = {rows: _best(costs, rows, best) for rows in complete}
    choices = (
        RowsChoice(rows, sum(in_use[rows].values()), cost, dict(zip(TILE, tile, strict=False)))
        for rows, (cost, tile) in chosen.items()
    )
    return KernelChoice(kernel, best, tuple(choices), left_out)


def _best(costs: Costs, rows: int, splits: Mapping[str, int]) -> tuple[float, Tile]:
    """The least cost of all layers with one tile, and the tile; infinite where no tile was timed for all."""
    layers = {layer: by_rows.get(rows, {}) for layer, by_rows in costs.items()}
    tiles = {tile for timed in layers.values() for tile, _ in timed}
    sums = {
        tile: sum(timed.get((tile, splits[layer]), float("inf")) for layer, timed in layers.items()) for tile in tiles
    }
    return min(((cost, tile) for tile, cost in sums.items()), default=(float("inf"), ()))
