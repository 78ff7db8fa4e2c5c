"""Attention of a window over the filled part of a cache, in Triton kernels (split-KV, known as flash decoding).

A row's slots are cut into at most MAX_CHUNKS chunks: their length is the least power of two times `AttentionTile.chunk`
that suffices for the slots which the row's window reaches. A program computes one chunk with the running softmax of
arXiv 2205.14135, by one kernel for a single query and by another for several; a last kernel combines the chunks.
How far a row is filled is read on the device, so the grid depends on shapes alone and a CUDA graph can hold it. A chunk
that no query of the row reaches ends at once.

A query's result depends on what it sees, on its own position and on the length of the chunks. That length is the same
for every window but one that holds both a position below and one above a bound where chunks double
(MAX_CHUNKS · 128, 256, …): its queries below the bound are then summed in chunks of twice the length. The two kernels
cut chunks alike, and sum within one in different orders.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime import driver

from ..errors import InputError
from .attention_chunks import chunk_length, combine_chunks, lane_queries, load_heads
from .buffers import Buffers, empty
from .dot import dot
from .draft_tree import DraftTree
from .kv_tensor import KVTensor
from .tiles import MAX_CHUNKS, MIN_DOT, SLOTS, AttentionTile, attention_tile, chunk_count, power_of_2

# Within a row of the cache, offsets have 32 bits.
MAX_OFFSET = 2**31


@triton.jit(do_not_specialize=["width", "length", "chunks", "shared_tiles"])
def _attend_chunk(
    query,
    keys,
    key_scales,
    key_lows,
    values,
    value_scales,
    value_lows,
    input_pos,
    mixed,
    largest,
    totals,
    lanes,
    shared_tiles,
    width,
    length,
    chunks,
    log2_scale,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    WINDOW: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    INT8: tl.constexpr,
    GROUPS: tl.constexpr,
    SIZE: tl.constexpr,
    SCALES: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr,
    MAX_CHUNKS: tl.constexpr,
    NODES: tl.constexpr,
    LANE_TILES: tl.constexpr,
):
    """One tile of queries over one chunk of one head: unnormalised mix, largest score, sum of weights.

    The tiles after the first `shared_tiles` are LANE_TILES for each lane of a tree of NODES; see `lane_queries`.
    """
    chunk, row_head = tl.program_id(1), tl.program_id(2)
    row, head = (row_head // KV_HEADS).to(tl.int64), row_head % KV_HEADS
    chunk_slots = chunk_length(input_pos, row, width, length, CHUNK, MAX_CHUNKS, WINDOW)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    real = m < width * GROUP
    if NODES > 0:
        window_start = tl.load(input_pos + row * width).to(tl.int32)
        m, real, lane_start, lane_shift = lane_queries(
            lanes, shared_tiles, chunk, window_start, chunk_slots, width, length, GROUP, BLOCK_M, NODES, LANE_TILES
        )
    pos = tl.load(input_pos + row * width + m // GROUP, mask=real, other=-1).to(tl.int32)
    filled = tl.minimum(tl.max(pos, 0) + 1, length)
    first = chunk * chunk_slots
    if first >= filled:
        return
    dim = tl.arange(0, HEAD_DIM)
    query_head = ((row * width + m // GROUP) * KV_HEADS + head) * GROUP + m % GROUP
    q = tl.load(query + query_head[:, None] * HEAD_DIM + dim[None, :], mask=real[:, None], other=0)
    running = tl.full([BLOCK_M], -float("inf"), tl.float32)
    # Of every 32nd slot; those are added after the loop, since adding within a program takes barriers.
    total = tl.zeros([BLOCK_M, 32], tl.float32)
    mix = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    row_token = row * length * KV_HEADS + head
    keys, values = keys + row_token * SIZE, values + row_token * SIZE
    key_scales, value_scales = key_scales + row_token * SCALES, value_scales + row_token * SCALES
    key_lows, value_lows = key_lows + row_token * GROUPS, value_lows + row_token * GROUPS
    for start in range(first, tl.minimum(first + chunk_slots, filled), BLOCK_N):
        slot = start + tl.arange(0, BLOCK_N)
        # Slots after the last one repeat it, with weight 0.
        token = tl.minimum(slot, filled - 1)
        if NODES > 0:
            token += tl.where(token < lane_start, 0, lane_shift)
        token *= KV_HEADS
        key = load_heads(keys, key_scales, key_lows, token, dim, BLOCK_N, HEAD_DIM, GROUPS, q.dtype, WIDEN)
        scores = dot(q, tl.trans(key), WIDEN)
        if INT8:
            scores *= (tl.load(key_scales + token) * log2_scale)[None, :]
        else:
            scores *= log2_scale
        scores = tl.where(slot[None, :] <= pos[:, None], scores, -float("inf"))
        larger = tl.maximum(running, tl.max(scores, 1))
        # Any finite base will do where a query has seen nothing yet.
        base = tl.where(larger == -float("inf"), 0.0, larger)
        weights, shrink = tl.exp2(scores - base[:, None]), tl.exp2(running - base)
        total = total * shrink[:, None] + tl.sum(tl.reshape(weights, [BLOCK_M, BLOCK_N // 32, 32]), 1)
        if INT8:
            weights *= tl.load(value_scales + token)[None, :]
        value = load_heads(values, value_scales, value_lows, token, dim, BLOCK_N, HEAD_DIM, GROUPS, q.dtype, WIDEN)
        mix = mix * shrink[:, None] + dot(weights.to(q.dtype), value, WIDEN)
        running = larger
    part = (row_head.to(tl.int64) * chunks + chunk) * width * GROUP + m
    tl.store(largest + part, running, mask=real)
    tl.store(totals + part, tl.sum(total, 1), mask=real)
    tl.store(mixed + part[:, None] * HEAD_DIM + dim[None, :], mix, mask=real[:, None])


@triton.jit(do_not_specialize=["length", "chunks"])
def _attend_chunk_single(
    query,
    keys,
    key_scales,
    key_lows,
    values,
    value_scales,
    value_lows,
    input_pos,
    mixed,
    largest,
    totals,
    length,
    chunks,
    log2_scale,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    INT8: tl.constexpr,
    GROUPS: tl.constexpr,
    SIZE: tl.constexpr,
    SCALES: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr,
    MAX_CHUNKS: tl.constexpr,
):
    """As `_attend_chunk`, for a single query, which would leave a matmul of tiles almost empty.

    Each of BLOCK_N lanes has a running softmax over its own slots; they are combined at the end.
    """
    chunk, row_head = tl.program_id(0), tl.program_id(1)
    row, head = (row_head // HEADS).to(tl.int64), row_head % HEADS
    filled = tl.minimum(tl.load(input_pos + row).to(tl.int32) + 1, length)
    chunk_slots = chunk_length(input_pos, row, 1, length, CHUNK, MAX_CHUNKS, 1)
    first = chunk * chunk_slots
    if first >= filled:
        return
    dim = tl.arange(0, HEAD_DIM)
    q = tl.load(query + row_head.to(tl.int64) * HEAD_DIM + dim).to(tl.float32) * log2_scale
    running = tl.full([BLOCK_N], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_N], tl.float32)
    mix = tl.zeros([BLOCK_N, HEAD_DIM], tl.float32)
    row_token = row * length * HEADS + head
    keys, values = keys + row_token * SIZE, values + row_token * SIZE
    key_scales, value_scales = key_scales + row_token * SCALES, value_scales + row_token * SCALES
    key_lows, value_lows = key_lows + row_token * GROUPS, value_lows + row_token * GROUPS
    # `num_stages` is set here, since the compiler prefetches by itself only for a matmul of tiles.
    for start in tl.range(first, tl.minimum(first + chunk_slots, filled), BLOCK_N, num_stages=3):
        slot = start + tl.arange(0, BLOCK_N)
        token = tl.minimum(slot, filled - 1) * HEADS
        key = load_heads(keys, key_scales, key_lows, token, dim, BLOCK_N, HEAD_DIM, GROUPS, tl.float32, WIDEN)
        scores = tl.sum(key * q[None, :], 1)
        if INT8:
            scores *= tl.load(key_scales + token)
        scores = tl.where(slot < filled, scores, -float("inf"))
        larger = tl.maximum(running, scores)
        base = tl.where(larger == -float("inf"), 0.0, larger)
        weights, shrink = tl.exp2(scores - base), tl.exp2(running - base)
        total = total * shrink + weights
        if INT8:
            weights *= tl.load(value_scales + token)
        value = load_heads(values, value_scales, value_lows, token, dim, BLOCK_N, HEAD_DIM, GROUPS, tl.float32, WIDEN)
        mix = mix * shrink[:, None] + weights[:, None] * value
        running = larger
    top = tl.max(running, 0)
    share = tl.exp2(running - top)
    part = row_head.to(tl.int64) * chunks + chunk
    tl.store(largest + part, top)
    tl.store(totals + part, tl.sum(total * share, 0))
    tl.store(mixed + part * HEAD_DIM + dim, tl.sum(mix * share[:, None], 0))


def window_attention(
    query: Tensor,
    keys: KVTensor,
    values: KVTensor,
    input_pos: Tensor,
    kv_len: int,
    widest: int = 1,
    tree: DraftTree | None = None,
    lanes: Tensor | None = None,
    buffers: Buffers | None = None,
    tile: AttentionTile | None = None,
) -> Tensor:
    """Attention of a window [R,W,heads,head_dim] over a cache of R rows. See the reference.

    float32 sums are in another order than the reference's, and int8 values are not rounded to the query's dtype (int4
    values are). `kv_len` sets the grid: a captured graph takes the cache's length. The tile is that of the `widest`
    window of the run, so that narrower ones round alike; `tile` replaces it. Raises InputError for shapes and dtypes
    that the kernel does not take.
    """
    _check(query, keys, values, input_pos)
    rows, width, heads, head_dim = query.shape
    length, kv_heads = keys.values.shape[1:3]
    queries = width * heads // kv_heads
    if tile is None:
        of_tile = queries if queries == 1 else max(queries, widest * heads // kv_heads)
        tile = attention_tile(of_tile, query.dtype, current_capability(query), keys.groups > 0)
    chunks = chunk_count(min(kv_len, length), tile.chunk)
    parts, device = (rows * kv_heads, chunks, queries), query.device
    totals, largest = empty(buffers, "attention.totals", (2, *parts), torch.float32, device)
    mixed = empty(buffers, "attention.mixed", (*parts, head_dim), torch.float32, device)
    out = empty(buffers, "attention.out", query.shape, query.dtype, device)
    query, positions = _contiguous(query, buffers, "query"), _contiguous(input_pos, buffers, "positions")
    log2_scale = math.log2(math.e) / math.sqrt(head_dim)
    operands = query, *keys.operands, *values.operands, positions, mixed, largest, totals
    sizes = {"HEAD_DIM": head_dim, "CHUNK": tile.chunk, "MAX_CHUNKS": MAX_CHUNKS}
    window = {"KV_HEADS": kv_heads, "GROUP": heads // kv_heads, "WINDOW": power_of_2(max(width, MIN_DOT))}
    cached = {"INT8": keys.is_int8, "GROUPS": keys.groups, "SIZE": keys.values.shape[3]}
    cached |= {"SCALES": 1 if keys.is_int8 else keys.groups, "WIDEN": not query.is_cuda}
    options = {"BLOCK_N": tile.slots, "num_warps": tile.warps, **sizes, **cached}
    if queries == 1:
        _attend_chunk_single[chunks, rows * kv_heads](*operands, length, chunks, log2_scale, HEADS=kv_heads, **options)
    else:
        block = {"BLOCK_M": tile.queries, "num_stages": tile.stages}
        shared, nodes, of_lane, lane_count = triton.cdiv(queries, tile.queries), 0, 1, 0
        if tree is not None:
            nodes, lane_count = len(tree), len(tree.lanes)
            of_lane = triton.cdiv(tree.longest * heads // kv_heads, tile.queries)
        grid = shared + lane_count * of_lane, chunks, rows * kv_heads
        table = positions if lanes is None else lanes  # never read without a tree
        block |= {"NODES": nodes, "LANE_TILES": of_lane}
        _attend_chunk[grid](*operands, table, shared, width, length, chunks, log2_scale, **block, **window, **options)
    padded = power_of_2(chunks)
    combined = {"PADDED_CHUNKS": padded, "num_warps": max(1, min(8, padded * head_dim // 512)), **sizes, **window}
    combine_chunks[queries, rows * kv_heads](mixed, largest, totals, positions, out, width, length, chunks, **combined)
    return out


def current_capability(tensor: Tensor) -> int:
    """Compute capability of a tensor's device, 90 for 9.0; 0 for a CPU."""
    return driver.active.get_current_target().arch if tensor.is_cuda else 0


def _contiguous(tensor: Tensor, buffers: Buffers | None, name: str) -> Tensor:
    if tensor.is_contiguous():
        return tensor
    return empty(buffers, f"attention.{name}", tensor.shape, tensor.dtype, tensor.device).copy_(tensor)


def _check(query: Tensor, keys: KVTensor, values: KVTensor, input_pos: Tensor) -> None:
    rows, width, heads, head_dim = query.shape
    shape, last = keys.values.shape, head_dim if keys.lows is None else head_dim // 2
    fits = shape == values.values.shape and (shape[0], shape[3]) == (rows, last) and heads % shape[2] == 0
    if not fits or input_pos.shape != (rows, width):
        raise InputError(
            f"queries {list(query.shape)} at positions {list(input_pos.shape)} over keys {list(shape)} and values "
            f"{list(values.values.shape)}; expected [rows,width,heads,head_dim], [rows,width] and twice "
            "[rows,length,kv_heads,head_dim] (half of it in int4) with heads a multiple of kv_heads"
        )
    if head_dim < MIN_DOT or head_dim & (head_dim - 1) or query.dtype not in SLOTS:
        raise InputError(
            f"head_dim is {head_dim} in {query.dtype}; expected a power of two from {MIN_DOT} on in one of "
            f"{', '.join(map(str, SLOTS))}: use the reference for others"
        )
    if shape[1:].numel() >= MAX_OFFSET:
        raise InputError(f"keys {list(shape)}; expected less than 2^31 values a row: use the reference for more")
    for stored in (keys, values):
        other_dtype = stored.scales is None and stored.values.dtype != query.dtype
        other_kind = len(stored.tensors) != len(keys.tensors)
        if other_dtype or other_kind or not all(tensor.is_contiguous() for tensor in stored.tensors):
            raise InputError(
                f"a cache of {stored.values.dtype} in {len(stored.tensors)} tensors for queries in {query.dtype}; "
                "expected the same dtype or a quantised one, keys and values alike, and contiguous tensors"
            )
