"""The small kernels: the parts of a block between its matmuls and attention, and those that move a window."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.kernels.select import load
from lumina_core.kernels.tiles import split_count
from lumina_core.kernels.window_state import ABOVE, GUMBEL, Sampling
from lumina_core.model.load import linear_shapes

from . import Figure
from .arguments import (
    BF16,
    Arguments,
    accept_arguments,
    draw_arguments,
    embed_arguments,
    fill,
    keep_arguments,
    nbytes,
    norm_arguments,
    place_arguments,
    qkv_arguments,
    sums_argument,
)
from .clock import Clock, measured

TOP_K = 4096
Tile = dict[str, int]
"""Values that replace a kernel's own: `warps`, and for `silu_gate` its `block`."""


@dataclass(frozen=True)
class Problem:
    """`rows` tokens of a model, of both branches; partial sums in so many `splits`; how tokens are drawn.

    The nodes of a `tree` come in addition to the tokens where a kernel moves a window.
    """

    config: TransformerConfig
    rows: int
    splits: int = 1
    kv_cache: str = "int8"
    rule: str = GUMBEL
    new_drafts: str = ABOVE
    cfg_scale: float = 4.0
    top_k: int | None = None
    tree: int = 0

    @property
    def figures(self) -> Figure:
        return {"rows": self.rows, "splits": self.splits}

    @property
    def width(self) -> int:
        """Slots of a window."""
        return max(1, self.rows // 2)

    @property
    def sampling(self) -> Sampling:
        codes = self.config.codebook_size
        top_k = min(TOP_K, codes // 2) if self.top_k is None else self.top_k
        tree = self.tree if self.rule == GUMBEL else 0
        return Sampling(codes, self.rule, self.new_drafts, self.cfg_scale, top_k=top_k, tree=tree)


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
        "embed_window": lambda one, device: embed_arguments(one.config.hidden_size, one.sampling, one.width, device),
        "draw_window": lambda one, device: draw_arguments(one.sampling, one.width, device),
        "accept_window": lambda one, device: accept_arguments(one.sampling, one.width, device),
        "place_drafts": lambda one, device: place_arguments(one.sampling, one.width, device),
        "keep_branch": lambda one, device: keep_arguments(one.config, one.kv_cache, one.sampling, one.width, device),
    }
)
# The kernels whose code depends on the cache, and those where it depends on the rule.
CACHED = ("qkv_norm_rope_store", "keep_branch")
RULED = ("draw_window", "accept_window", "place_drafts")
# What a kernel reads of its arguments, where that is not all.
READ: Mapping[str, Callable[[Arguments], Any]] = MappingProxyType(
    {
        "embed_window": lambda given: given[2][: len(given[0].offset) * given[1]],
        "draw_window": lambda given: (given[0], given[1].draft_probs),
        "accept_window": lambda given: given[1],
        "place_drafts": lambda given: (given[0].target_probs, given[0].last_logits),
        "keep_branch": lambda given: given[1:],
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

    moved = nbytes(READ.get(kernel, lambda given: given)(first))

    def measure(tile: Tile) -> Figure:
        seconds = clock.seconds([partial(function, *each, **tile) for each in inputs])
        return {"us": 1e6 * seconds, "bytes": moved, "share": clock.share(moved, seconds)}

    for tile in tiles:
        figure = {"kernel": kernel, **problem.figures, "options": tile, "in_use": not tile}
        figure |= {"kv": problem.kv_cache} if kernel in CACHED else {}
        figure |= {"tree": problem.tree} if problem.tree else {}
        figure |= {"rule": problem.rule} if kernel in RULED else {}
        yield measured(figure, partial(measure, tile))
