"""The small kernels: the parts of a block between its matmuls and attention, and the sampling of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.kernels.select import load
from lumina_core.kernels.tiles import split_count
from lumina_core.model.load import linear_shapes

from . import Figure
from .arguments import (
    BF16,
    Arguments,
    draw_arguments,
    fill,
    logits_argument,
    nbytes,
    norm_arguments,
    qkv_arguments,
    sums_argument,
)
from .clock import Clock, measured

TOP_K = 4096
Tile = dict[str, int]
"""Values that replace a kernel's own: `warps`, and for `silu_gate` its `block`."""


@dataclass(frozen=True)
class Problem:
    """`rows` tokens of a model (of both branches; for drawing, of one); partial sums in so many `splits`."""

    config: TransformerConfig
    rows: int
    splits: int
    kv_cache: str = "int8"

    @property
    def figures(self) -> Figure:
        return {"rows": self.rows, "splits": self.splits}


Make = Callable[[Problem, torch.device | str], Arguments]
ARGUMENTS: Mapping[str, Make] = MappingProxyType(
    {
        "qkv_norm_rope_store": lambda one, device: qkv_arguments(
            one.config, one.kv_cache, one.rows, one.splits, device
        ),
        "silu_gate": lambda one, device: (
            sums_argument(one.rows, 2 * one.config.intermediate_size, one.splits, device),
            BF16,
        ),
        "add_rms_norm": lambda one, device: norm_arguments(one.config.hidden_size, one.rows, one.splits, device),
        "gumbel_draw": lambda one, device: draw_arguments(one.config.codebook_size, one.rows, _top_k(one), device),
        "topk_cut": lambda one, device: (logits_argument(one.config.codebook_size, one.rows, device), _top_k(one)),
    }
)
# The layer whose partial sums a kernel takes; the others take none.
LAYER = {"qkv_norm_rope_store": "qkv_proj", "silu_gate": "gate_up_proj", "add_rms_norm": "down_proj"}


def splits_in_use(kernel: str, config: TransformerConfig) -> int:
    """Partial sums that the layer before a kernel leaves, with quantised weights."""
    return split_count(*linear_shapes(config)[LAYER[kernel]]) if kernel in LAYER else 1


def tiles_of(kernel: str, warps: Sequence[int] = (), blocks: Sequence[int] = ()) -> list[Tile]:
    """The tile in use, which is empty, then others; only `silu_gate` takes a block."""
    sized = [{"block": block} for block in blocks] if kernel == "silu_gate" and blocks else [{}]
    tried = [{**size, "warps": count} for size in sized for count in warps] if warps else sized
    return [{}, *(tile for tile in tried if tile)]


def sweep(kernel: str, problem: Problem, tiles: Sequence[Tile], clock: Clock) -> Iterator[Figure]:
    """A figure for each tile; the empty one is that in use."""
    function = load(kernel)
    first = fill(ARGUMENTS[kernel](problem, clock.device))
    inputs = [first, *(fill(ARGUMENTS[kernel](problem, clock.device)) for _ in range(1, clock.copies(nbytes(first))))]

    def measure(tile: Tile) -> Figure:
        seconds = clock.seconds([partial(function, *each, **tile) for each in inputs])
        return {"us": 1e6 * seconds, "bytes": nbytes(first), "share": clock.share(nbytes(first), seconds)}

    for tile in tiles:
        figure = {"kernel": kernel, **problem.figures, "options": tile, "in_use": not tile}
        figure |= {"kv": problem.kv_cache} if kernel == "qkv_norm_rope_store" else {}
        yield measured(figure, partial(measure, tile))


def _top_k(problem: Problem) -> int:
    return min(TOP_K, problem.config.codebook_size // 2)
