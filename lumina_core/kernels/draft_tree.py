"""The tree of drafts that `gumbel` runs beside its window: other codes at the first places, with what follows them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

# How often the right code has rank 0 (the draft), 1, 2, … among the values log p + g of the last forward: at the first
# place after the accepted tokens, whose token was just drawn anew, and at later places. Measured on the calibrated law
# of docs/results.md; they decide which nodes come first, not which tokens are drawn.
FIRST_HITS = (0.54, 0.16, 0.08, 0.06)
LATER_HITS = (0.73, 0.13, 0.05, 0.02)
# Nodes of the largest tree.
MAX_TREE = 64


@dataclass(frozen=True)
class Lane:
    """A branch: at `depth` places after the last accepted token the code of `rank` ≥ 1 instead of the draft.

    It has `length` nodes, the others with the window's drafts. Its first node is node `first` of the tree.
    """

    depth: int
    rank: int
    length: int
    first: int

    @property
    def nodes(self) -> range:
        return range(self.first, self.first + self.length)


@dataclass(frozen=True)
class DraftTree:
    """The lanes of a tree; empty without any."""

    lanes: tuple[Lane, ...] = ()

    @staticmethod
    @lru_cache(maxsize=64)
    def of(nodes: int, window: int) -> DraftTree:
        """The likeliest `nodes` nodes, or as many as a window of so many tokens holds."""
        likeliest = sorted(_candidates(window), key=lambda node: -node[0])[:nodes]
        lengths: dict[tuple[int, int], int] = {}
        for _, depth, rank in likeliest:
            lengths[depth, rank] = lengths.get((depth, rank), 0) + 1
        lanes, first = list[Lane](), 0
        for (depth, rank), length in lengths.items():
            lanes.append(Lane(depth, rank, length, first))
            first += length
        return DraftTree(tuple(lanes))

    def __len__(self) -> int:
        """Nodes."""
        return sum(lane.length for lane in self.lanes)

    @property
    def ranks(self) -> int:
        """The highest rank of a lane."""
        return max((lane.rank for lane in self.lanes), default=0)

    @property
    def longest(self) -> int:
        """Nodes of the longest lane."""
        return max((lane.length for lane in self.lanes), default=0)

    @property
    def reach(self) -> int:
        """Tokens of the narrowest window that holds the tree."""
        return max((lane.depth + lane.length for lane in self.lanes), default=1)

    def table(self, device: torch.device | str) -> Tensor:
        """Depth, rank, length and first node of each lane [lanes,4]."""
        rows = [(lane.depth, lane.rank, lane.length, lane.first) for lane in self.lanes]
        return torch.tensor(rows, dtype=torch.int64, device=device).view(len(rows), 4)

    def depths(self, device: torch.device | str) -> Tensor:
        """How many places after the last accepted token each node is [nodes]."""
        depths = [lane.depth + node for lane in self.lanes for node in range(lane.length)]
        return torch.tensor(depths, dtype=torch.int64, device=device)


NO_TREE = DraftTree()


def _candidates(window: int) -> Iterator[tuple[float, int, int]]:
    """The chance that each node is on the way, its lane's depth and rank."""
    reached = 1.0
    for depth in range(1, window):
        hits = FIRST_HITS if depth == 1 else LATER_HITS
        for rank, hit in enumerate(hits[1:], 1):
            chance = reached * hit
            for _ in range(depth, window):
                yield chance, depth, rank
                chance *= LATER_HITS[0]
        reached *= hits[0]
