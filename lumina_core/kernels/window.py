"""The start and the end of a step in two Triton kernels: embedding a window, and moving it over what was accepted."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..errors import InputError
from .block import DTYPES, MAX_SIZE
from .buffers import NORMED, Buffers, empty
from .hashes import FRESH_STREAM, step_hash, to_uniform
from .window_state import ABOVE, GUESS, LEFT, RANDOM, SJD, Drawn, WindowState

_ABOVE, _LEFT, _RANDOM = tl.constexpr(ABOVE), tl.constexpr(LEFT), tl.constexpr(RANDOM)


@triton.jit(do_not_specialize=["slots", "pictures", "length", "header", "row_length", "eps"])
def _embed_window(
    tokens,
    pos,
    heads,
    lanes,
    depths,
    offset,
    embedding,
    end_of_row,
    norm_weight,
    x,
    normed,
    input_pos,
    slots,
    pictures,
    length,
    header,
    row_length,
    eps,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
    NODES: tl.constexpr,
):
    """One token of one row, of the window or of the tree after it."""
    row, slot, column = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, BLOCK)
    picture, inside = row % pictures, column < SIZE
    dtype = x.dtype.element_ty
    if NODES > 0:
        of_node = tl.load(depths + slot - slots, mask=slot >= slots, other=0)
        index = tl.load(pos + picture) + tl.where(slot < slots, slot, of_node)
    else:
        index = tl.load(pos + picture) + slot
    # How many values come from the embedding of the code; the others come from that of the end of row.
    of_code = tl.where((index - header) % row_length == row_length - 1, 0, SIZE)
    code = tl.load(tokens + picture * length + index)
    for lane in range(LANES):
        head = tl.load(heads + picture * LANES + lane)
        code = tl.where(tl.load(lanes + lane * 4 + 3) + slots == slot, head, code)
    values = tl.load(embedding + code * SIZE + column, mask=column < of_code, other=0).to(tl.float32)
    values += tl.load(end_of_row + column, mask=inside & (column >= of_code), other=0).to(tl.float32)
    place = row * (slots + NODES) + slot
    tl.store(x + place * SIZE + column, values.to(dtype), mask=inside)
    scale = 1 / tl.sqrt(tl.sum(values * values, 0) / SIZE + eps)
    values = values * scale * tl.load(norm_weight + column, mask=inside, other=0).to(tl.float32)
    tl.store(normed + place * SIZE + column, values.to(dtype), mask=inside)
    tl.store(input_pos + place, index + tl.load(offset + row))


@triton.jit
def _column(place, leaves, nodes, node):
    """The column of what was drawn from which the token at a place comes: of the lane's nodes where it runs."""
    return tl.where((place >= leaves) & (place < leaves + nodes), node + place - leaves, place)


@triton.jit(do_not_specialize=["width", "window", "length", "header", "row_length", "last", "codes"])
def _accept_window(
    keys,
    tokens,
    forced_at,
    accept_step,
    log_probs,
    pos,
    steps,
    accepted,
    heads,
    branch,
    lanes,
    drawn_tokens,
    drawn_fresh,
    drawn_agree,
    drawn_log_probs,
    drawn_others,
    width,
    window,
    length,
    header,
    row_length,
    last,
    codes,
    REDRAWS: tl.constexpr,
    WAY: tl.constexpr,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
    NODES: tl.constexpr,
    RANKS: tl.constexpr,
):
    """One picture. Tokens that this program writes are never read back: they are taken from what was drawn."""
    picture, slot = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    start, step, row = tl.load(pos + picture), tl.load(steps + picture), picture * length
    drawn = picture * (width + NODES)
    agree = tl.load(drawn_agree + drawn + slot, mask=slot < width - 1, other=0)
    accept_length = tl.min(tl.where(agree == 0, slot, BLOCK), 0) + 1
    # Of the lane that is followed: where it leaves, its first node and its nodes; and how many of them are accepted.
    leaves, node, nodes, right = accept_length, accept_length * 0, accept_length * 0, accept_length * 0
    if NODES > 0:
        window_length = accept_length
        instead = tl.load(drawn_tokens + drawn + window_length - 1)
        for lane in range(LANES):
            depth, length_of = tl.load(lanes + lane * 4).to(tl.int32), tl.load(lanes + lane * 4 + 2).to(tl.int32)
            first = tl.load(lanes + lane * 4 + 3).to(tl.int32)
            taken = (window_length == depth) & (tl.load(heads + picture * LANES + lane) == instead)
            node, nodes = tl.where(taken, first, node), tl.where(taken, length_of, nodes)
        along = tl.load(drawn_agree + drawn + width + node + slot, mask=slot < nodes - 1, other=0)
        right = tl.where(nodes > 0, tl.min(tl.where(along == 0, slot, BLOCK), 0) + 1, 0)
        tl.store(branch + picture * 3, node.to(tl.int64))
        tl.store(branch + picture * 3 + 1, start + window_length)
        tl.store(branch + picture * 3 + 2, right.to(tl.int64))
        accept_length += right
    count = tl.minimum(accept_length, last - start)
    index = start + 1 + slot
    token = tl.load(drawn_tokens + drawn + _column(slot, leaves, nodes, width + node), mask=slot < width, other=0)
    if REDRAWS:
        token = tl.where(slot < accept_length, token, tl.load(drawn_fresh + drawn + slot, mask=slot < width, other=0))
    tl.store(tokens + row + index, token, mask=slot < width)
    is_accepted = slot < count
    tl.store(accept_step + row + index, tl.zeros([BLOCK], tl.int64) + step, mask=is_accepted)
    column = _column(slot, leaves, nodes, width + node)
    found = tl.load(drawn_log_probs + drawn + column, mask=is_accepted, other=0.0)
    tl.store(log_probs + row + index, found, mask=is_accepted)
    tl.store(pos + picture, start + count)
    tl.store(steps + picture, step + 1)
    tl.store(accepted + picture, count)
    if NODES > 0:
        for lane in range(LANES):
            depth, rank = tl.load(lanes + lane * 4), tl.load(lanes + lane * 4 + 1)
            place = count + depth - 1
            other = (drawn + _column(place, leaves, nodes, width + node)) * RANKS + rank - 1
            head = tl.load(drawn_others + other, mask=place < width, other=0)
            tl.store(heads + picture * LANES + lane, head)
    if WAY != "guess":
        known, new = start + width, start + count + 1 + slot
        is_new = (slot < window - 1) & (new > known)
        if WAY == _RANDOM:
            uniform = to_uniform(step_hash(tl.load(keys + picture), new, step, FRESH_STREAM))
            draft = tl.minimum((uniform * codes).to(tl.int64), codes - 1)
        else:
            source = tl.where((known - header) % row_length == row_length - 1, known - 1, known) + slot * 0
            if WAY == _ABOVE:
                above = new - (new - known + row_length - 1) // row_length * row_length
                source = tl.where(above < header, source, above)
            old = is_new & (source <= start)
            draft = tl.load(tokens + row + source, mask=old, other=0)
            at = source - start - 1
            recent = is_new & (source > start)
            late = tl.load(drawn_tokens + drawn + _column(at, leaves, nodes, width + node), mask=recent, other=0)
            if REDRAWS:
                fresh = tl.load(drawn_fresh + drawn + at, mask=recent, other=0)
                late = tl.where(at < accept_length, late, fresh)
            draft = tl.where(source > start, late, draft)
        forced = tl.load(forced_at + row + new, mask=is_new, other=1)
        tl.store(tokens + row + new, draft, mask=is_new & (forced == 0))


def embed_window(
    state: WindowState,
    slots: int,
    embedding: Tensor,
    end_of_row: Tensor,
    norm_weight: Tensor,
    eps: float,
    buffers: Buffers | None = None,
    warps: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings, their RMSNorm and positions of the first `slots` tokens of every row and its tree. See the reference.

    A program of `warps` (None: by the size) has one token. Raises InputError unless the dtype is float32 or bfloat16
    and the size at most 32,768.
    """
    (pictures, length), layout = state.tokens.shape, state.layout
    rows, size, dtype = len(state.offset), embedding.shape[1], embedding.dtype
    if dtype not in DTYPES or size > MAX_SIZE or not embedding.is_contiguous():
        raise InputError(
            f"an embedding {list(embedding.shape)} in {dtype}; expected a contiguous one of at most {MAX_SIZE} columns "
            f"in one of {', '.join(map(str, DTYPES))}: use the reference for others"
        )
    nodes = len(state.depths)
    shape, device = (rows * (slots + nodes), size), embedding.device
    x, normed = (empty(buffers, name, shape, dtype, device) for name in ("embedded", NORMED))
    input_pos = empty(buffers, "input_pos", (rows, slots + nodes), torch.int64, device)
    tree = state.heads, state.lanes, state.depths
    operands = state.tokens, state.pos, *tree, state.offset, embedding, end_of_row, norm_weight, x, normed, input_pos
    block = triton.next_power_of_2(size)
    _embed_window[rows, slots + nodes](
        *operands,
        *(slots, pictures, length, layout.header, layout.row_length, eps),
        SIZE=size,
        BLOCK=block,
        LANES=len(state.lanes),
        NODES=nodes,
        num_warps=max(1, min(16, block // 256)) if warps is None else warps,
    )
    return x, normed, input_pos


def accept_window(state: WindowState, drawn: Drawn, warps: int = 1) -> None:
    """Moves the window over what is accepted of a draw, and places drafts after it. See the reference."""
    (pictures, length), nodes, layout = state.tokens.shape, len(state.depths), state.layout
    width = drawn.tokens.shape[1] - nodes
    _accept_window[(pictures,)](
        *(state.keys, state.tokens, state.forced, state.accept_step, state.log_probs, state.pos, state.steps),
        *(state.accepted, state.heads, state.branch, state.lanes, *drawn),
        *(width, state.window, length, layout.header, layout.row_length, layout.last, state.sampling.codes),
        REDRAWS=state.sampling.rule == SJD,
        WAY=state.sampling.new_drafts if state.window > 1 else GUESS,
        BLOCK=triton.next_power_of_2(max(state.window, width)),
        LANES=len(state.lanes),
        NODES=nodes,
        RANKS=state.tree.ranks,
        num_warps=warps,
    )
