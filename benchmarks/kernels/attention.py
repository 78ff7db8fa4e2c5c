"""Attention of a window over a cache, at any tile."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.kernels import reference
from lumina_core.kernels.draft_tree import DraftTree
from lumina_core.kernels.kv_tensor import INT4
from lumina_core.kernels.select import load
from lumina_core.kernels.tiles import AttentionTile, attention_tile
from lumina_core.model.kv_cache import KVCache

from . import Figure
from .arguments import BF16, Arguments, attention_arguments, fill, nbytes
from .clock import Clock, first_line, measured

# Slots at a time, warps, and the fewest slots of a chunk that are tried by default.
SLOTS, WARPS, CHUNKS = (32, 64, 128), (4, 8), (128, 512)


@dataclass(frozen=True)
class Problem:
    """Two sequences' windows of `width` tokens after `context`, in a cache of `length` slots.

    A draft tree of `tree` nodes comes after each window.
    """

    config: TransformerConfig
    kv_cache: str
    width: int
    context: int
    length: int
    tree: int = 0

    @property
    def figures(self) -> Figure:
        sizes = {"kv": self.kv_cache, "window": self.width, "context": self.context, "length": self.length}
        return {**sizes, "tree": self.tree} if self.tree else sizes

    @property
    def slots(self) -> int:
        """Tokens of a window and its tree."""
        return self.width + len(DraftTree.of(self.tree, self.width))

    @property
    def tile_in_use(self) -> AttentionTile:
        queries = self.slots * self.config.num_attention_heads // self.config.num_key_value_heads
        return attention_tile(queries, BF16, capability_in_use(), self.kv_cache == INT4)

    def arguments(self, device: torch.device | str) -> Arguments:
        """Those of the kernel, unfilled."""
        sizes = self.config, self.kv_cache, self.width, self.context, self.length
        return attention_arguments(*sizes, device, self.tree)

    @property
    def read_bytes(self) -> int:
        """Bytes that attention must read: the filled slots of both sequences, in one layer."""
        filled = self.context + self.width
        return KVCache.bytes_needed(replace(self.config, num_hidden_layers=1), 2, filled, BF16, self.kv_cache)


def capability_in_use() -> int:
    """The compute capability that kernels are compiled for, 90 for 9.0; 0 without a GPU."""
    try:
        from triton.runtime import driver

        return int(driver.active.get_current_target().arch)
    except (ImportError, RuntimeError):
        return 0


def tiles_of(
    problem: Problem,
    slots: Iterable[int] = SLOTS,
    warps: Iterable[int] = WARPS,
    chunks: Iterable[int] = CHUNKS,
) -> list[AttentionTile]:
    """The tile in use, and others."""
    used = problem.tile_in_use
    tried = itertools.product(slots, warps, chunks)
    others = [replace(used, slots=slot, warps=warp, chunk=chunk) for slot, warp, chunk in tried]
    return list(dict.fromkeys([used, *others]))


def sweep(problem: Problem, tiles: Sequence[AttentionTile], clock: Clock) -> Iterator[Figure]:
    """A figure for each tile; `off` is the relative error against the reference."""
    kernel = load("window_attention")
    figure = {"kernel": "window_attention", **problem.figures}
    try:
        inputs = [fill(problem.arguments(clock.device)) for _ in range(_copies(problem, clock))]
        expected = reference.window_attention(*inputs[0]).float()
    except RuntimeError as error:  # no memory
        yield {**figure, "error": first_line(error)}
        return

    def measure(tile: AttentionTile) -> Figure:
        off = float((kernel(*inputs[0], tile=tile).float() - expected).norm() / expected.norm())
        seconds, moved = clock.seconds([partial(kernel, *each, tile=tile) for each in inputs]), problem.read_bytes
        return {"us": 1e6 * seconds, "bytes": moved, "share": clock.share(moved, seconds), "off": off}

    for tile in tiles:
        yield measured({**figure, "tile": asdict(tile), "in_use": tile == problem.tile_in_use}, partial(measure, tile))


def _copies(problem: Problem, clock: Clock) -> int:
    """Caches of which the L2 does not hold what is read, limited by the free memory."""
    if clock.device.type != "cuda":
        return 1
    free = torch.cuda.mem_get_info(clock.device)[0] // 2
    return max(2, min(clock.copies(problem.read_bytes), free // nbytes(problem.arguments("meta"))))
