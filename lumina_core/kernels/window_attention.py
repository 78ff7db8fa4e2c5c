"""Attention of a window over the filled part of a cache, in Triton kernels.

A sequence's keys are cut into chunks that stand at fixed places, each worked through by a program of its own with the
running softmax of arXiv 2205.14135, by one kernel for a single query and another for more; a last one joins what the
chunks gave (split-KV, known as flash decoding).
Chunks that no query of the row reaches end at once: how far a row is filled is read on the device, so that the grid
depends on shapes alone and a CUDA graph may hold it. A query's result depends on its own position and on what it sees,
not on how far others reach.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..errors import InputError
from .dot import bytes_as_bfloat16, dot
from .kv_tensor import Stored, parts_or_numbers
from .tiles import LEAST_DOT, SLOTS, AttentionTile, attention_tile, padded_chunks


@triton.jit
def _load_heads(
    numbers,
    scales,
    lowest,
    token,
    inside,
    dim,
    BLOCK_N: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    GROUPS: tl.constexpr,
    dtype: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Stored numbers [BLOCK_N,HEAD_DIM] of some slots, 0 outside; 8-bit ones without their scale.

    4-bit ones (GROUPS > 0) come scaled. The interpreter takes no int8 to bfloat16 at once.
    """
    if GROUPS > 0:
        byte = tl.arange(0, HEAD_DIM // 2)
        pairs = tl.load(numbers + token[:, None] * (HEAD_DIM // 2) + byte[None, :], mask=inside[:, None], other=0)
        codes = tl.permute(tl.join(pairs & 15, pairs >> 4), (0, 2, 1))
        of_group = token[:, None] * GROUPS + tl.arange(0, GROUPS)[None, :]
        scale = tl.load(scales + of_group, mask=inside[:, None], other=0).to(tl.float32)
        low = tl.load(lowest + of_group, mask=inside[:, None], other=0).to(tl.float32)
        grouped = tl.reshape(codes.to(tl.float32), [BLOCK_N, GROUPS, HEAD_DIM // GROUPS])
        tile = tl.reshape(grouped * scale[:, :, None] + low[:, :, None], [BLOCK_N, HEAD_DIM])
    else:
        tile = tl.load(numbers + token[:, None] * HEAD_DIM + dim[None, :], mask=inside[:, None], other=0)
        if WIDEN:
            tile = tile.to(tl.float32)
        elif tile.dtype == tl.int8:  # noqa: SIM102 - Triton 3.2 does not take both in one
            if dtype == tl.bfloat16:
                tile = bytes_as_bfloat16(tile)
    return tile.to(dtype)


@triton.jit(do_not_specialize=["width", "length", "chunks"])
def _attend_chunk(
    query,
    keys,
    key_scales,
    key_lowest,
    values,
    value_scales,
    value_lowest,
    input_pos,
    mixed,
    largest,
    totals,
    width,
    length,
    chunks,
    log2_scale,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SCALED: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One tile of queries over one chunk of one head: their mix, not normalised, its largest score, and its sum."""
    chunk, row_head = tl.program_id(1), tl.program_id(2)
    row, head = (row_head // KV_HEADS).to(tl.int64), row_head % KV_HEADS
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    real = m < width * GROUP
    pos = tl.load(input_pos + row * width + m // GROUP, mask=real, other=-1)
    first, filled = chunk * CHUNK, tl.minimum(tl.max(pos, 0) + 1, length)
    if first >= filled:
        return
    dim = tl.arange(0, HEAD_DIM)
    query_head = ((row * width + m // GROUP) * KV_HEADS + head) * GROUP + m % GROUP
    q = tl.load(query + query_head[:, None] * HEAD_DIM + dim[None, :], mask=real[:, None], other=0)
    running = tl.full([BLOCK_M], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    mix = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    for start in range(first, tl.minimum(first + CHUNK, filled), BLOCK_N):
        slot = start + tl.arange(0, BLOCK_N)
        inside, token = slot < filled, (row * length + slot) * KV_HEADS + head
        key = _load_heads(keys, key_scales, key_lowest, token, inside, dim, BLOCK_N, HEAD_DIM, GROUPS, q.dtype, WIDEN)
        scores = dot(q, tl.trans(key), WIDEN) * log2_scale
        if SCALED:
            scores *= tl.load(key_scales + token, mask=inside, other=0)[None, :]
        scores = tl.where(slot[None, :] <= pos[:, None], scores, -float("inf"))
        larger = tl.maximum(running, tl.max(scores, 1))
        # Where a query has seen nothing yet, any finite number will do.
        base = tl.where(larger == -float("inf"), 0.0, larger)
        weights, shrink = tl.exp2(scores - base[:, None]), tl.exp2(running - base)
        total = total * shrink + tl.sum(weights, 1)
        if SCALED:
            weights *= tl.load(value_scales + token, mask=inside, other=0)[None, :]
        value = _load_heads(
            values, value_scales, value_lowest, token, inside, dim, BLOCK_N, HEAD_DIM, GROUPS, q.dtype, WIDEN
        )
        mix = mix * shrink[:, None] + dot(weights.to(q.dtype), value, WIDEN)
        running = larger
    part = (row_head.to(tl.int64) * chunks + chunk) * width * GROUP + m
    tl.store(largest + part, running, mask=real)
    tl.store(totals + part, total, mask=real)
    tl.store(mixed + part[:, None] * HEAD_DIM + dim[None, :], mix, mask=real[:, None])


@triton.jit(do_not_specialize=["length", "chunks"])
def _attend_chunk_alone(
    query,
    keys,
    key_scales,
    key_lowest,
    values,
    value_scales,
    value_lowest,
    input_pos,
    mixed,
    largest,
    totals,
    length,
    chunks,
    log2_scale,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SCALED: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """As `_attend_chunk`, for one query, which would leave a product of tiles all but empty.

    Each of BLOCK_N lanes keeps a running softmax over the slots that come its way; they are joined at the end.
    """
    chunk, row_head = tl.program_id(0), tl.program_id(1)
    row, head = (row_head // HEADS).to(tl.int64), row_head % HEADS
    filled = tl.minimum(tl.load(input_pos + row) + 1, length)
    first = chunk * CHUNK
    if first >= filled:
        return
    dim = tl.arange(0, HEAD_DIM)
    q = tl.load(query + row_head.to(tl.int64) * HEAD_DIM + dim).to(tl.float32) * log2_scale
    running = tl.full([BLOCK_N], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_N], tl.float32)
    mix = tl.zeros([BLOCK_N, HEAD_DIM], tl.float32)
    # Said, since the compiler reads ahead by itself only for a product of tiles.
    for start in tl.range(first, tl.minimum(first + CHUNK, filled), BLOCK_N, num_stages=3):
        slot = start + tl.arange(0, BLOCK_N)
        inside, token = slot < filled, (row * length + slot) * HEADS + head
        key = _load_heads(
            keys, key_scales, key_lowest, token, inside, dim, BLOCK_N, HEAD_DIM, GROUPS, tl.float32, WIDEN
        )
        scores = tl.sum(key * q[None, :], 1)
        if SCALED:
            scores *= tl.load(key_scales + token, mask=inside, other=0)
        scores = tl.where(inside, scores, -float("inf"))
        larger = tl.maximum(running, scores)
        base = tl.where(larger == -float("inf"), 0.0, larger)
        weights, shrink = tl.exp2(scores - base), tl.exp2(running - base)
        total = total * shrink + weights
        if SCALED:
            weights *= tl.load(value_scales + token, mask=inside, other=0)
        value = _load_heads(
            values, value_scales, value_lowest, token, inside, dim, BLOCK_N, HEAD_DIM, GROUPS, tl.float32, WIDEN
        )
        mix = mix * shrink[:, None] + weights[:, None] * value
        running = larger
    top = tl.max(running, 0)
    share = tl.exp2(running - top)
    part = row_head.to(tl.int64) * chunks + chunk
    tl.store(largest + part, top)
    tl.store(totals + part, tl.sum(total * share, 0))
    tl.store(mixed + part * HEAD_DIM + dim, tl.sum(mix * share[:, None], 0))


@triton.jit(do_not_specialize=["width", "chunks"])
def _join_chunks(
    mixed,
    largest,
    totals,
    input_pos,
    out,
    width,
    chunks,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    CHUNK: tl.constexpr,
    MOST_CHUNKS: tl.constexpr,
):
    """The result of one query head: the chunks that it sees, all at once, and normalised."""
    m, row_head = tl.program_id(0), tl.program_id(1)
    row, head = (row_head // KV_HEADS).to(tl.int64), row_head % KV_HEADS
    seen = tl.minimum(tl.load(input_pos + row * width + m // GROUP) // CHUNK + 1, chunks)
    dim, chunk = tl.arange(0, HEAD_DIM), tl.arange(0, MOST_CHUNKS)
    there, part = chunk < seen, (row_head.to(tl.int64) * chunks + chunk) * width * GROUP + m
    score = tl.load(largest + part, mask=there, other=-float("inf"))
    share = tl.exp2(score - tl.max(score, 0))
    total = tl.sum(tl.load(totals + part, mask=there, other=0) * share, 0)
    mix = tl.load(mixed + part[:, None] * HEAD_DIM + dim[None, :], mask=there[:, None], other=0)
    query_head = ((row * width + m // GROUP) * KV_HEADS + head) * GROUP + m % GROUP
    tl.store(out + query_head * HEAD_DIM + dim, (tl.sum(mix * share[:, None], 0) / total).to(out.dtype.element_ty))


def window_attention(
    query: Tensor, keys: Stored, values: Stored, input_pos: Tensor, kv_len: int, tile: AttentionTile | None = None
) -> Tensor:
    """Attention of a window [R,W,heads,head_dim] over a cache of R rows; a query sees the slots up to its own position.

    As its twin of `eager`, but for the order in which float32 sums are taken, and that 8-bit numbers are not rounded
    to the query's format (4-bit ones are); what is computed in is float32 or bfloat16. `kv_len` sets the grid: a
    captured graph takes the cache's length. `tile` stands in for that of `attention_tile`. Raises InputError for shapes
    or formats that the kernel does not take.
    """
    _check(query, keys, values, input_pos)
    rows, width, heads, head_dim = query.shape
    length, kv_heads = keys.numbers.shape[1:3]
    queries = width * heads // kv_heads
    tile = attention_tile(queries, query.dtype) if tile is None else tile
    chunks = triton.cdiv(min(kv_len, length), tile.chunk)
    totals, largest = torch.empty(2, rows * kv_heads, chunks, queries, dtype=torch.float32, device=query.device)
    mixed = torch.empty(*totals.shape, head_dim, dtype=torch.float32, device=query.device)
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    positions, log2_scale = input_pos.contiguous(), math.log2(math.e) / math.sqrt(head_dim)
    operands = query.contiguous(), *parts_or_numbers(keys), *parts_or_numbers(values), positions, mixed, largest, totals
    options = {
        "SCALED": keys.is_scaled,
        "GROUPS": keys.groups,
        "WIDEN": not query.is_cuda,
        "HEAD_DIM": head_dim,
        "CHUNK": tile.chunk,
        "BLOCK_N": tile.slots,
        "num_warps": tile.warps,
    }
    if queries == 1:
        _attend_chunk_alone[chunks, rows * kv_heads](*operands, length, chunks, log2_scale, HEADS=kv_heads, **options)
    else:
        _attend_chunk[triton.cdiv(queries, tile.queries), chunks, rows * kv_heads](
            *operands,
            width,
            length,
            chunks,
            log2_scale,
            KV_HEADS=kv_heads,
            GROUP=heads // kv_heads,
            BLOCK_M=tile.queries,
            num_stages=tile.stages,
            **options,
        )
    most_chunks = padded_chunks(min(kv_len, length), tile.chunk)
    _join_chunks[queries, rows * kv_heads](
        mixed,
        largest,
        totals,
        positions,
        out,
        width,
        chunks,
        KV_HEADS=kv_heads,
        GROUP=heads // kv_heads,
        HEAD_DIM=head_dim,
        CHUNK=tile.chunk,
        MOST_CHUNKS=most_chunks,
        num_warps=max(1, min(8, most_chunks * head_dim // 512)),
    )
    return out


def _check(query: Tensor, keys: Stored, values: Stored, input_pos: Tensor) -> None:
    rows, width, heads, head_dim = query.shape
    shape, last = keys.numbers.shape, head_dim if keys.lowest is None else head_dim // 2
    fits = shape == values.numbers.shape and (shape[0], shape[3]) == (rows, last) and heads % shape[2] == 0
    if not fits or input_pos.shape != (rows, width):
        raise InputError(
            f"queries {list(query.shape)} at positions {list(input_pos.shape)} over keys {list(shape)} and values "
            f"{list(values.numbers.shape)}; expected [rows,width,heads,head_dim], [rows,width] and twice "
            "[rows,length,kv_heads,head_dim] (half of it in 4 bits) with heads a multiple of kv_heads"
        )
    if head_dim < LEAST_DOT or head_dim & (head_dim - 1) or query.dtype not in SLOTS:
        raise InputError(
            f"heads of {head_dim} numbers in {query.dtype}; expected a power of two from {LEAST_DOT} on in one of "
            f"{', '.join(map(str, SLOTS))}: use the eager twin for others"
        )
    for stored in (keys, values):
        bare = stored.scales is None and stored.numbers.dtype != query.dtype
        if bare or len(stored.parts) != len(keys.parts) or not all(part.is_contiguous() for part in stored.parts):
            raise InputError(
                f"a cache of {stored.numbers.dtype} and {len(stored.parts) - 1} scales for queries in {query.dtype}; "
                "expected the same format, or few bits with scales, keys and values alike, and a contiguous layer"
            )
