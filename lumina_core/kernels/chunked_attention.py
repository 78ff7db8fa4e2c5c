"""Attention over a cache on a CPU: some slots at a time, with a running softmax, as flash attention does it.

A quantised cache is never dequantised as a whole: codes become float32 a chunk at a time, and the scales of int8
multiply logits and probabilities instead of keys and values. Chunks begin at the same slots in every forward and masked
slots add exactly zero, so a token's result depends neither on how much of the cache is read nor on the other tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .kv_tensor import KVTensor

# Slots of a chunk: few enough that two rows of the 7B stay in a CPU's cache, enough that operations are worth calling.
CHUNK = 128
# With fewer rows MKL multiplies by another kernel, which rounds differently.
LEAST_WIDTH = 4
# Bytes of a chunk of keys in float32: more rows than fit are attended one part after another.
SCRATCH_BYTES = 2**24


@dataclass(frozen=True)
class Chunks:
    """What the layers of a forward share: how a window's queries see a cache, and scratch memory.

    `masks` are those of each chunk: which slots the queries do not see [R,1,1,W,CHUNK], None where they see all.
    `scratch` [rows,kv_heads,CHUNK,head_dim] is for the keys or values of a chunk.
    """

    masks: Sequence[Tensor | None]
    scratch: Tensor

    @staticmethod
    def of(input_pos: Tensor, kv_len: int, keys: KVTensor, head_dim: int, dtype: torch.dtype) -> Chunks:
        """For queries at `input_pos` [R,W] over the first `kv_len` slots of a cache like `keys`."""
        missing = max(0, LEAST_WIDTH - input_pos.shape[1])
        pos = F.pad(input_pos, (0, missing), "replicate") if missing else input_pos
        least, slots = int(pos.min()), torch.arange(CHUNK, device=pos.device)
        starts = range(0, kv_len, CHUNK)
        masks = [
            None if first + CHUNK <= least + 1 else first + slots > pos[:, None, None, :, None] for first in starts
        ]
        rows, _, kv_heads, _ = keys.values.shape
        dtype = torch.float64 if dtype == torch.float64 else torch.float32
        rows = min(rows, max(1, SCRATCH_BYTES // (kv_heads * CHUNK * head_dim * dtype.itemsize)))
        return Chunks(masks, torch.empty(rows, kv_heads, CHUNK, head_dim, dtype=dtype))


def chunked_attention(query: Tensor, keys: KVTensor, values: KVTensor, chunks: Chunks) -> Tensor:
    """As `reference.window_attention`, computed in float32: [R,W,heads,head_dim] in the dtype of the query."""
    width = query.shape[1]
    padded = F.pad(query, (0, 0, 0, 0, 0, LEAST_WIDTH - width)) if width < LEAST_WIDTH else query
    parts = []
    for first, rows in zip(range(0, len(query), len(chunks.scratch)), padded.split(len(chunks.scratch)), strict=True):
        masks = [None if mask is None else mask[first : first + len(rows)] for mask in chunks.masks]
        key, value = (part.part(first, len(rows)) for part in (keys, values))
        parts.append(_attend(rows, key, value, masks, chunks.scratch[: len(rows)]))
    return torch.cat(parts)[:, :width].to(query.dtype)


def _attend(query: Tensor, keys: KVTensor, values: KVTensor, masks: Sequence[Tensor | None], scratch: Tensor) -> Tensor:
    """The attention [R,W,heads,head_dim] of as many rows as the scratch memory has."""
    rows, kv_heads, _, head_dim = scratch.shape
    by_head = (query.to(scratch.dtype) * head_dim**-0.5).transpose(1, 2).reshape(rows * kv_heads, -1, head_dim)
    highest = total = mixed = None
    for index, mask in enumerate(masks):
        first = index * CHUNK
        logits = torch.bmm(by_head, keys.head_values(first, scratch).mT)
        if (scales := keys.head_scales(first, CHUNK)) is not None:
            logits.mul_(scales)
        if mask is not None:
            logits.view(rows, kv_heads, -1, *mask.shape[-2:]).masked_fill_(mask, -torch.inf)
        higher = logits.amax(-1, keepdim=True)
        if highest is not None:
            higher = torch.maximum(highest, higher)
        share = logits.sub_(higher).exp_()
        sums = share.sum(-1, keepdim=True)
        if (scales := values.head_scales(first, CHUNK)) is not None:
            share.mul_(scales)
        value = values.head_values(first, scratch)
        if highest is None or total is None or mixed is None:
            total, mixed = sums, torch.bmm(share, value)
        else:
            faded = highest.sub_(higher).exp_()
            total, mixed = total.mul_(faded).add_(sums), mixed.mul_(faded).baddbmm_(share, value)
        highest = higher
    assert total is not None and mixed is not None, "a window sees its own tokens"
    return mixed.div_(total).view(rows, -1, query.shape[1], head_dim).transpose(1, 2)
