"""What the kernels of the window's attention share: the length of a chunk, tiles of the cache, the last kernel."""

import triton
import triton.language as tl

from .dot import int8_to_bfloat16


@triton.jit
def load_heads(
    values,
    scales,
    lows,
    token,
    dim,
    BLOCK_N: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    GROUPS: tl.constexpr,
    dtype: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """A head's values [BLOCK_N,HEAD_DIM] of some slots; int8 without scale, int4 (GROUPS > 0) dequantised.

    Triton's interpreter does not convert int8 to bfloat16 directly.
    """
    if GROUPS > 0:
        byte = tl.arange(0, HEAD_DIM // 2)
        pairs = tl.load(values + token[:, None] * (HEAD_DIM // 2) + byte[None, :])
        codes = tl.permute(tl.join(pairs & 15, pairs >> 4), (0, 2, 1))
        of_group = token[:, None] * GROUPS + tl.arange(0, GROUPS)[None, :]
        scale = tl.load(scales + of_group).to(tl.float32)
        low = tl.load(lows + of_group).to(tl.float32)
        grouped = tl.reshape(codes.to(tl.float32), [BLOCK_N, GROUPS, HEAD_DIM // GROUPS])
        tile = tl.reshape(grouped * scale[:, :, None] + low[:, :, None], [BLOCK_N, HEAD_DIM])
    else:
        tile = tl.load(values + token[:, None] * HEAD_DIM + dim[None, :])
        if WIDEN:
            tile = tile.to(tl.float32)
        elif tile.dtype == tl.int8:  # noqa: SIM102 - Triton 3.2 does not take both in one
            if dtype == tl.bfloat16:
                tile = int8_to_bfloat16(tile)
    return tile.to(dtype)


@triton.jit
def chunk_length(input_pos, row, width, length, CHUNK: tl.constexpr, MAX_CHUNKS: tl.constexpr, WINDOW: tl.constexpr):
    """Slots of a chunk of a row, from the furthest of its positions."""
    at = tl.arange(0, WINDOW)
    last = tl.max(tl.load(input_pos + row * width + at, mask=at < width, other=0), 0).to(tl.int32)
    filled, chunk = tl.minimum(last + 1, length), CHUNK
    while chunk * MAX_CHUNKS < filled:
        chunk *= 2
    return chunk


@triton.jit
def lane_queries(
    lanes,
    shared_tiles,
    chunk,
    start,
    chunk_slots,
    width,
    length,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    NODES: tl.constexpr,
    LANE_TILES: tl.constexpr,
):
    """The queries of a tile where the last NODES tokens of a row are a draft tree: which, and which are computed here.

    Shared tiles have all queries. From the chunk of the window's second token on they leave out the nodes, and tiles of
    each lane compute those: there a lane's nodes stand in for the window's tokens at their positions, so that sums
    are those of a window that has them. Also returns the first of these positions, after all for a shared tile, and
    how many slots later what belongs there is stored.
    """
    tile, at = tl.program_id(0), tl.arange(0, BLOCK_M)
    on_lane, number = tile >= shared_tiles, tl.maximum(tile - shared_tiles, 0)
    lane, of_lane = number // LANE_TILES, number % LANE_TILES * BLOCK_M + at
    depth, first = tl.load(lanes + lane * 4).to(tl.int32), tl.load(lanes + lane * 4 + 3).to(tl.int32)
    nodes = tl.where(on_lane, tl.load(lanes + lane * 4 + 2).to(tl.int32), 0)
    window = (width - NODES) * GROUP
    m = tl.where(on_lane, window + first * GROUP + of_lane, tile * BLOCK_M + at)
    # The queries of a shared tile, and of a lane's, that are computed in this chunk.
    of_window = chunk >= (start + 1) // chunk_slots
    shared = tl.where(on_lane, 0, tl.where(of_window, window, width * GROUP))
    own = tl.where(of_window, nodes * GROUP, 0)
    real = (m < shared) | (of_lane < own)
    return m, real, tl.where(on_lane, start + depth, length), length - NODES + first - start - depth


@triton.jit(do_not_specialize=["width", "length", "chunks"])
def combine_chunks(
    mixed,
    largest,
    totals,
    input_pos,
    out,
    width,
    length,
    chunks,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    WINDOW: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    CHUNK: tl.constexpr,
    MAX_CHUNKS: tl.constexpr,
    PADDED_CHUNKS: tl.constexpr,
):
    """The result of one query head: the chunks that it sees, combined and normalised."""
    m, row_head = tl.program_id(0), tl.program_id(1)
    row, head = (row_head // KV_HEADS).to(tl.int64), row_head % KV_HEADS
    chunk_slots = chunk_length(input_pos, row, width, length, CHUNK, MAX_CHUNKS, WINDOW)
    seen = tl.minimum(tl.load(input_pos + row * width + m // GROUP).to(tl.int32) // chunk_slots + 1, chunks)
    dim, chunk = tl.arange(0, HEAD_DIM), tl.arange(0, PADDED_CHUNKS)
    there, part = chunk < seen, (row_head.to(tl.int64) * chunks + chunk) * width * GROUP + m
    score = tl.load(largest + part, mask=there, other=-float("inf"))
    share = tl.exp2(score - tl.max(score, 0))
    total = tl.sum(tl.load(totals + part, mask=there, other=0) * share, 0)
    mix = tl.load(mixed + part[:, None] * HEAD_DIM + dim[None, :], mask=there[:, None], other=0)
    query_head = ((row * width + m // GROUP) * KV_HEADS + head) * GROUP + m % GROUP
    tl.store(out + query_head * HEAD_DIM + dim, (tl.sum(mix * share[:, None], 0) / total).to(out.dtype.element_ty))
