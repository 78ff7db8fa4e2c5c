"""Attention over a cache on a CPU, some slots at a time.

A quantised cache is never dequantised as a whole: codes become float32 a chunk at a time, and the scales of int8
multiply logits and probabilities instead of keys and values. Chunks begin at the same slots in every forward, sums go
from chunk to chunk, and masked slots add exactly zero, so a token's result depends neither on how much of the cache is
read nor on the other tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from .chunked_lanes import Lanes
from .draft_tree import DraftTree
from .kv_tensor import CHUNK, KVTensor

# With fewer rows MKL multiplies by another kernel, which rounds differently.
LEAST_WIDTH = 4
# Bytes of logits, and of a chunk of keys in float32: more rows than fit are attended one part after another.
LOGIT_BYTES, SCRATCH_BYTES = 2**26, 2**24


@dataclass(frozen=True)
class Chunks:
    """What the layers of a forward share: how a window's queries see a cache, and memory.

    `masks` are those of each chunk: which slots the queries do not see [R,1,1,W,CHUNK], None where they see all.
    `logits` [chunks,rows·kv_heads,queries of a kv_head,CHUNK]; `scratch` [rows,kv_heads,CHUNK,head_dim] is for the keys
    or values of a chunk. `lanes` is what the nodes of a draft tree, the last queries, see beside whole chunks.
    """

    masks: Sequence[Tensor | None]
    logits: Tensor
    scratch: Tensor
    lanes: Lanes | None = None

    @staticmethod
    def of(
        input_pos: Tensor,
        kv_len: int,
        keys: KVTensor,
        heads: int,
        head_dim: int,
        dtype: torch.dtype,
        tree: DraftTree | None = None,
    ) -> Chunks:
        """For queries at `input_pos` [R,W] over the first `kv_len` slots of a cache like `keys`."""
        lanes = None
        if tree is not None:
            lanes = Lanes.of(input_pos, tree, keys.values.shape[1], LEAST_WIDTH)
            input_pos = input_pos.clone()
            input_pos[:, -len(tree) :] = lanes.chunk[:, None] * CHUNK - 1
        missing = max(0, LEAST_WIDTH - input_pos.shape[1])
        pos = torch.cat((input_pos, input_pos[:, -1:].expand(-1, missing)), 1)[:, None, None, :, None]
        first_to_hide, slots = int(pos.min()) + 1, torch.arange(CHUNK, device=pos.device)
        starts = range(0, kv_len, CHUNK)
        masks = [None if first + CHUNK <= first_to_hide else first + slots > pos for first in starts]
        dtype, kv_heads = torch.float64 if dtype == torch.float64 else torch.float32, keys.values.shape[2]
        queries = heads // kv_heads * pos.shape[3]
        rows = rows_at_a_time(len(input_pos), kv_len, heads * pos.shape[3], kv_heads * head_dim, dtype.itemsize)
        logits = torch.empty(len(masks), rows * kv_heads, queries, CHUNK, dtype=dtype)
        return Chunks(masks, logits, torch.empty(rows, kv_heads, CHUNK, head_dim, dtype=dtype), lanes)


def rows_at_a_time(rows: int, kv_len: int, queries: int, values: int, item: int) -> int:
    """Rows that are attended at once; `queries` are those of all heads of a row, `values` its key's at a slot."""
    return max(1, min(rows, LOGIT_BYTES // (kv_len * queries * item), SCRATCH_BYTES // (CHUNK * values * item)))


def chunked_attention(query: Tensor, keys: KVTensor, values: KVTensor, chunks: Chunks) -> Tensor:
    """As `reference.window_attention`, computed in float32: [R,W,heads,head_dim] in the dtype of the query."""
    width = query.shape[1]
    padded = F.pad(query, (0, 0, 0, 0, 0, LEAST_WIDTH - width)) if width < LEAST_WIDTH else query
    parts, first = [], 0
    for rows in padded.split(len(chunks.scratch)):
        masks = [None if mask is None else mask[first : first + len(rows)] for mask in chunks.masks]
        key, value = (part.part(first, len(rows)) for part in (keys, values))
        logits = chunks.logits[:, : len(rows) * keys.values.shape[2]]
        lanes = None if chunks.lanes is None else chunks.lanes.part(first, len(rows))
        part = Chunks(masks, logits, chunks.scratch[: len(rows)], lanes)
        parts.append(_attend(rows, width, key, value, part))
        first += len(rows)
    return torch.cat(parts)[:, :width].to(query.dtype)


@cache
def attention_rounds_alike(head_dim: int) -> bool:
    """Whether a token's result is the same in windows of any width here, bit for bit: tested with both matmuls."""
    generator, widest = torch.Generator().manual_seed(0), 8 * LEAST_WIDTH
    query, key, value = (torch.randn(2, size, head_dim, generator=generator) for size in (widest, CHUNK, CHUNK))
    shares = torch.rand(2, widest, CHUNK, generator=generator)

    def alike(left: Tensor, right: Tensor) -> bool:
        whole, widths = torch.bmm(left, right), (LEAST_WIDTH, LEAST_WIDTH + 1, 2 * LEAST_WIDTH)
        return all(torch.equal(torch.bmm(left[:, :width], right), whole[:, :width]) for width in widths)

    return alike(query, key.mT) and alike(shares, value)


def _attend(query: Tensor, width: int, keys: KVTensor, values: KVTensor, chunks: Chunks) -> Tensor:
    """The attention [R,W,heads,head_dim] of as many rows as there is memory for, of which the first `width` count."""
    (rows, kv_heads, _, head_dim), logits = chunks.scratch.shape, chunks.logits
    by_head = (query.to(logits.dtype) * head_dim**-0.5).transpose(1, 2).reshape(rows * kv_heads, -1, head_dim)
    for index in range(len(logits)):
        torch.bmm(by_head, keys.chunk(index, chunks.scratch).mT, out=logits[index])
    # Of rows that were added for the matmul nothing is used.
    seen = logits[:, :, :width] if logits.shape[2] == query.shape[1] else logits
    if (scales := keys.chunk_scales(len(logits))) is not None:
        seen.mul_(scales)
    for index, mask in enumerate(chunks.masks):
        if mask is not None:
            logits[index].view(rows, kv_heads, -1, *mask.shape[-2:]).masked_fill_(mask, -torch.inf)
    by_query = rows, kv_heads, -1, query.shape[1]
    if (lanes := chunks.lanes) is not None:
        lanes.place_logits(logits.view(len(logits), *by_query, CHUNK), by_head.view(*by_query, head_dim), keys)
    total = _exponentiate(seen)
    weights = [] if lanes is None else lanes.take_weights(logits.view(len(logits), *by_query, CHUNK))
    if (scales := values.chunk_scales(len(logits))) is not None:
        seen.mul_(scales)
    mixed = torch.bmm(logits[0], values.chunk(0, chunks.scratch))
    for index in range(1, len(logits)):
        mixed.baddbmm_(logits[index], values.chunk(index, chunks.scratch))
    if lanes is not None:
        lanes.add_values(mixed.view(*by_query, head_dim), weights, len(logits), values)
    mixed[:, : total.shape[1]] /= total
    return mixed.view(rows, -1, query.shape[1], head_dim).transpose(1, 2)


def _exponentiate(logits: Tensor) -> Tensor:
    """Makes a softmax of logits [chunks,B,queries,CHUNK] but for the divisor, in place; returns it [B,queries,1]."""
    logits.sub_(logits.amax((0, -1), keepdim=True)).exp_()
    # One chunk after the other: chunks of zeros change nothing.
    return logits.sum(-1, keepdim=True).cumsum(0)[-1]
