"""The lanes of a draft tree in the attention of a CPU, each with chunks of its own.

A lane's nodes stand in for the window's tokens at the same positions. So that its sums are those of a forward in which
they are the window's, bit for bit, the chunks that hold them are copied for each lane, with the nodes in their columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .draft_tree import DraftTree
from .kv_tensor import CHUNK, KVTensor

# A tree reaches no further than a window, so its nodes are in one chunk or two.
CHUNKS = 2


@dataclass(frozen=True)
class Lanes:
    """What the layers of a forward share of the lanes L of R rows, each padded to D nodes.

    `chunk` [R] is the first chunk with nodes; `slots` [CHUNKS,R,L,CHUNK] is where its columns, and the next chunk's,
    are stored for each lane; `hidden` [CHUNKS,R,L,1,1,D,CHUNK] which of them a node does not see. `nodes` [L·D] are the
    tree's nodes by lane, `places` [T] where each of them is among those. `first` is the first node among the queries.
    """

    chunk: Tensor
    slots: Tensor
    hidden: Tensor
    nodes: Tensor
    places: Tensor
    first: int

    @staticmethod
    def of(input_pos: Tensor, tree: DraftTree, length: int, least: int) -> Lanes:
        """For queries at `input_pos` [R,W + T] over a cache of `length` slots; a lane has at least so many queries."""
        width, padded = input_pos.shape[1] - len(tree), max(tree.longest, least)
        start = input_pos[:, :1]
        chunk = (start[:, 0] + 1) // CHUNK
        table = tree.table(input_pos.device)
        begin = (start + table[:, 0])[..., None]
        columns = ((chunk[:, None] + torch.arange(CHUNKS)) * CHUNK)[..., None] + torch.arange(CHUNK)
        columns = columns.transpose(0, 1)[:, :, None]
        node = columns - begin
        stored = torch.where(
            (node >= 0) & (node < table[:, 2, None]), length - len(tree) + table[:, 3, None] + node, columns
        )
        number = torch.arange(padded)
        hidden = columns[:, :, :, None] > begin[..., None] + number[:, None]
        nodes = table[:, 3, None] + number.clamp(max=table[:, 2, None] - 1)
        places = [index * padded + node for index, lane in enumerate(tree.lanes) for node in range(lane.length)]
        stored = stored.clamp_max(length - 1)
        return Lanes(chunk, stored, hidden[:, :, :, None, None], nodes.flatten(), torch.tensor(places), width)

    def part(self, first: int, count: int) -> Lanes:
        """Some rows."""
        rows = slice(first, first + count)
        return replace(self, chunk=self.chunk[rows], slots=self.slots[:, rows], hidden=self.hidden[:, rows])

    def place_logits(self, logits: Tensor, query: Tensor, keys: KVTensor) -> None:
        """Writes the nodes' logits of their own chunks.

        `logits` [chunks,R,kv_heads,group,queries,CHUNK], scaled `query` [R,kv_heads,group,queries,head_dim].
        """
        own = self._by_lane(query)
        for number, chunk, rows in self._chunks(len(logits)):
            values, scales = self._copied(keys, number, rows, query.dtype)
            found = torch.bmm(own[rows].flatten(0, 2).flatten(1, 2), values.mT)
            if scales is not None:
                found.mul_(scales)
            found = found.view(len(rows), *own.shape[1:-1], CHUNK)
            found.masked_fill_(self.hidden[number, rows], -torch.inf)
            logits[chunk, rows, :, :, self._queries] = self._by_query(found)

    def take_weights(self, logits: Tensor) -> list[Tensor]:
        """The nodes' weights of their own chunks, which become 0, a tensor [rows,kv_heads,group,T,CHUNK] each."""
        taken = []
        for _, chunk, rows in self._chunks(len(logits)):
            taken.append(logits[chunk, rows, :, :, self._queries])
            logits[chunk, rows, :, :, self._queries] = 0
        return taken

    def add_values(self, mixed: Tensor, weights: list[Tensor], chunks: int, values: KVTensor) -> None:
        """Adds the values of their own chunks to the nodes' mix [R,kv_heads,group,queries,head_dim]."""
        for (number, _, rows), weight in zip(self._chunks(chunks), weights, strict=True):
            stored, scales = self._copied(values, number, rows, mixed.dtype)
            of_lane = self._by_lane(weight, 0).flatten(0, 2).flatten(1, 2)
            if scales is not None:
                of_lane = of_lane * scales
            so_far = self._by_lane(mixed[rows])
            found = torch.baddbmm(so_far.flatten(0, 2).flatten(1, 2), of_lane, stored)
            mixed[rows, :, :, self._queries] = self._by_query(found.view(so_far.shape))

    @property
    def _queries(self) -> slice:
        return slice(self.first, self.first + len(self.places))

    def _chunks(self, count: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The first and the next chunk of the rows: 0 or 1, the chunk of each row, the rows that have one."""
        for number in range(CHUNKS):
            rows = (self.chunk + number < count).nonzero().flatten()
            if len(rows):
                yield number, self.chunk[rows] + number, rows

    def _copied(self, stored: KVTensor, number: int, rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """A chunk of each lane [rows·L·kv_heads,CHUNK,head_dim], and its scales if it is of an int8 cache."""
        slots = self.slots[number, rows].flatten(0, 1)
        copied = stored.gathered(rows.repeat_interleave(self.slots.shape[2])[:, None], slots)
        head_dim = copied.values.shape[3] * (1 if copied.lows is None else 2)
        scratch = torch.empty(len(slots), copied.values.shape[2], CHUNK, head_dim, dtype=dtype)
        scales = copied.chunk_scales(1)
        return copied.chunk(0, scratch), None if scales is None else scales[0]

    def _by_lane(self, queries: Tensor, first: int | None = None) -> Tensor:
        """[R,kv_heads,group,queries,…] as [R,L,kv_heads,group,D,…]."""
        nodes = self.nodes + (self.first if first is None else first)
        lanes = self.slots.shape[2]
        return queries.index_select(3, nodes).unflatten(3, (lanes, -1)).permute(0, 3, 1, 2, 4, 5)

    def _by_query(self, lanes: Tensor) -> Tensor:
        """[R,L,kv_heads,group,D,…] as [R,kv_heads,group,T,…]."""
        return lanes.permute(0, 2, 3, 1, 4, 5).flatten(3, 4).index_select(3, self.places)
