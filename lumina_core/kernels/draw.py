"""Guidance, log-probability, the cut and the draw of a window in one pass over its logits, in a Triton kernel.

A program has one token: its logits stay in registers, and its noise is computed where it is added.
"""

import math

import triton
import triton.language as tl
from torch import Tensor, float32, int64
from torch import bool as torch_bool

from ..errors import InputError
from .buffers import Buffers, empty
from .hashes import (
    ACCEPT_STREAM,
    FRESH_STREAM,
    GUMBEL_STREAM,
    REDRAW_STREAM,
    code_noise,
    code_times,
    index_hash,
    step_hash,
    to_uniform,
)
from .reference import share_of_one
from .topk import kth_largest, last_of_share
from .window_state import RANDOM, SJD, Drawn, WindowState

MAX_CODES = 2**16


@triton.jit
def _guided(logits, at, uncond, place, inside, cfg_scale, temperature, GUIDED: tl.constexpr):
    """One slot's logits after guidance over the temperature, −inf outside."""
    values = tl.load(logits + at + place, mask=inside, other=0).to(tl.float32)
    if GUIDED:
        other = tl.load(logits + uncond + at + place, mask=inside, other=0).to(tl.float32)
        values = other + cfg_scale * (values - other)
    return tl.where(inside, values / temperature, -float("inf"))


@triton.jit
def _pick(values, place, at):
    """The value at one place."""
    return tl.sum(tl.where(place == at, values, 0.0), 0)


@triton.jit
def _speculate(values, place, count, draft, times, uniform, draft_probs, target_probs, has_draft):
    """A token by the equations of `couple`, one from p alone, and whether the draft stays; stores p."""
    weights = tl.exp(values - tl.max(values, 0))
    target = weights / tl.sum(weights, 0)
    tl.store(target_probs + place, target, mask=place < count)
    # Outside the codes there is no weight, and the argmax takes the first of equals.
    fresh = tl.argmax(target / times, 0).to(tl.int64)
    known = tl.load(draft_probs + place, mask=place < tl.where(has_draft, count, 0), other=0.0)
    kept = has_draft & (uniform * _pick(known, place, draft) < _pick(target, place, draft))
    left = tl.maximum(target - known, 0.0)
    left = tl.where(tl.sum(left, 0) > 0, left, target)
    redrawn = tl.argmax(left / times, 0).to(tl.int64)
    return tl.where(kept, draft, tl.where(has_draft, redrawn, fresh)), fresh, kept


@triton.jit
def _cut(values, inside, top_k, top_p, log_min_p, CUT: tl.constexpr):
    """One slot's logits with the codes that are not drawn from at −inf; see the reference.

    `top_p` is a share of one. It and `log_min_p` are None, and no part of the compiled kernel, where they cut nothing.
    """
    cut = values
    if CUT:
        cut = tl.where(values < kth_largest(values, inside, top_k), -float("inf"), values)
    if top_p is not None:
        cut = tl.where(cut < last_of_share(cut, tl.max(values, 0), top_p), -float("inf"), cut)
    if log_min_p is not None:
        cut = tl.where(cut < tl.max(values, 0) + log_min_p, -float("inf"), cut)
    return cut


@triton.jit(do_not_specialize=["width", "slots", "pictures", "length", "window", "top_k", "top_p"])
def _draw_window(
    logits,
    keys,
    tokens,
    forced_at,
    pos,
    steps,
    target_probs,
    draft_probs,
    last_logits,
    depths,
    out_tokens,
    out_fresh,
    out_agree,
    out_log_probs,
    out_others,
    width,
    slots,
    pictures,
    length,
    window,
    count,
    top_k,
    top_p,
    log_min_p,
    cfg_scale,
    temperature,
    GUIDED: tl.constexpr,
    CUT: tl.constexpr,
    SPECULATIVE: tl.constexpr,
    REDRAWS: tl.constexpr,
    GUESSES: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK: tl.constexpr,
    NODES: tl.constexpr,
    RANKS: tl.constexpr,
):
    """The token after one slot of one picture, or after a node of its tree; `slots` have logits, with the nodes."""
    picture, slot = tl.program_id(0).to(tl.int64), tl.program_id(1)
    index, row = tl.load(pos + picture) + 1 + slot, slot
    if NODES > 0:
        of_node = tl.load(depths + slot - width, mask=slot >= width, other=0)
        index = tl.where(slot < width, index, tl.load(pos + picture) + 1 + of_node)
        row = tl.where(slot < width, slot, slots - NODES + slot - width)
    out, is_last = picture * (width + NODES) + slot, slot == width - 1
    place = tl.arange(0, BLOCK)
    inside = place < count
    at, uncond = (picture * slots + row) * count, pictures.to(tl.int64) * slots * count
    values = _guided(logits, at, uncond, place, inside, cfg_scale, temperature, GUIDED)
    cut = _cut(values, inside, top_k, top_p, log_min_p, CUT)
    if GUESSES:
        tl.store(last_logits + picture * count + place, cut, mask=place < tl.where(is_last, count, 0))
    key, draft = tl.load(keys + picture), tl.load(tokens + picture * length + index)
    if SPECULATIVE:
        step = tl.load(steps + picture)
        times = code_times(step_hash(key, index, step, REDRAW_STREAM), place, INTERPRETED)
        uniform = to_uniform(step_hash(key, index, step, ACCEPT_STREAM))
        target, known = target_probs + (picture * window + slot) * count, (picture * (window - 1) + slot) * count
        token, fresh, kept = _speculate(
            cut, place, count, draft, times, uniform, draft_probs + known, target, is_last == 0
        )
    else:
        noise = code_noise(index_hash(key, index, GUMBEL_STREAM), place, INTERPRETED)
        token = tl.argmax(cut + noise, 0).to(tl.int64)
        fresh, kept = token, token == draft
        if RANKS > 0:
            noise, other = values + noise, token
            for rank in tl.static_range(RANKS):
                noise = tl.where(place == other, -float("inf"), noise)
                other = tl.argmax(noise, 0).to(tl.int64)
                tl.store(out_others + out * RANKS + rank, other)
    forced = tl.load(forced_at + picture * length + index) != 0
    token, fresh = tl.where(forced, draft, token), tl.where(forced, draft, fresh)
    largest = tl.max(values, 0)
    log_prob = _pick(values, place, token) - largest - tl.log(tl.sum(tl.exp(values - largest), 0))
    tl.store(out_tokens + out, token)
    tl.store(out_fresh + out, fresh if REDRAWS else token)
    tl.store(out_agree + out, kept | forced)
    tl.store(out_log_probs + out, log_prob)


@triton.jit(do_not_specialize=["width", "length", "window"])
def _place_draft(
    keys,
    tokens,
    forced_at,
    pos,
    steps,
    accepted,
    target_probs,
    draft_probs,
    last_logits,
    width,
    length,
    window,
    count,
    SPECULATIVE: tl.constexpr,
    GUESSES: tl.constexpr,
    UNIFORM: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The draft of one slot after the window has moved: its q, and the draft itself where it is guessed."""
    picture, slot = tl.program_id(0).to(tl.int64), tl.program_id(1)
    index, source = tl.load(pos + picture) + 1 + slot, tl.load(accepted + picture) + slot
    place = tl.arange(0, BLOCK)
    inside = place < count
    new = source >= width
    if GUESSES & new:
        key = tl.load(keys + picture)
        if SPECULATIVE:
            bits = step_hash(key, index, tl.load(steps + picture) - 1, FRESH_STREAM)
        else:
            bits = index_hash(key, index, GUMBEL_STREAM)
        values = tl.load(last_logits + picture * count + place, mask=inside, other=-float("inf"))
        guess = tl.argmax(values + code_noise(bits, place, INTERPRETED), 0).to(tl.int64)
        forced = tl.load(forced_at + picture * length + index) != 0
        tl.store(tokens + picture * length + index, guess, mask=forced == 0)
    if SPECULATIVE:
        of_source = tl.minimum(source, width - 1) if GUESSES else source
        end = count if GUESSES else tl.where(new, 0, count)
        probs = tl.load(target_probs + (picture * window + of_source) * count + place, mask=place < end, other=0.0)
        if not GUESSES:
            if UNIFORM:
                made = tl.full([BLOCK], 1.0, tl.float32) / count
            else:
                made = (place == tl.load(tokens + picture * length + index)).to(tl.float32)
            probs = tl.where(new, made, probs)
        tl.store(draft_probs + (picture * (window - 1) + slot) * count + place, probs, mask=inside)


def draw_window(
    logits: Tensor, state: WindowState, width: int, buffers: Buffers | None = None, warps: int | None = None
) -> Drawn:
    """The tokens after the first `width` slots and the tree's nodes, of logits [R,S,K]. See the reference.

    A program of `warps` (None: by K) has one token. No logit is NaN. Raises InputError for more than 65,536 codes.
    """
    sampling = state.sampling
    (pictures, length), (rows, slots, codes) = state.tokens.shape, logits.shape
    if codes > MAX_CODES or codes != sampling.codes or rows != len(state.offset) or not logits.is_contiguous():
        raise InputError(
            f"logits {list(logits.shape)} for {len(state.offset)} rows of {sampling.codes} codes; expected "
            f"[rows,slots,codes], contiguous, of at most {MAX_CODES} codes: use the reference for others"
        )
    nodes, ranks = len(state.depths), state.tree.ranks
    shape, device = (pictures, width + nodes), logits.device
    dtypes = {"token": int64, "fresh": int64, "agree": torch_bool, "log_prob": float32}
    parts = [*((name, shape, dtype) for name, dtype in dtypes.items()), ("others", (*shape, ranks), int64)]
    drawn = Drawn(*(empty(buffers, f"drawn {name}", size, dtype, device) for name, size, dtype in parts))
    operands = logits, state.keys, state.tokens, state.forced, state.pos, state.steps
    block = triton.next_power_of_2(codes)
    _draw_window[shape](
        *(*operands, state.target_probs, state.draft_probs, state.last_logits, state.depths, *drawn),
        *(width, slots, pictures, length, state.window),
        *(codes, sampling.top_k),
        share_of_one(sampling.top_p) if sampling.top_p < 1 else None,
        math.log(sampling.min_p) if sampling.min_p > 0 else None,
        *(float(sampling.cfg_scale), float(sampling.temperature)),
        GUIDED=sampling.guided,
        CUT=sampling.top_k < codes,
        SPECULATIVE=sampling.speculative,
        REDRAWS=sampling.rule == SJD,
        GUESSES=sampling.guesses,
        INTERPRETED=not logits.is_cuda,
        BLOCK=block,
        NODES=nodes,
        RANKS=ranks,
        num_warps=warps_for(block, sampling.speculative) if warps is None else warps,
    )
    return drawn


def place_drafts(state: WindowState, width: int, warps: int | None = None) -> None:
    """Draws guessed drafts, and moves `draft_probs` with the window. See the reference."""
    sampling = state.sampling
    block = triton.next_power_of_2(sampling.codes)
    pictures, length = state.tokens.shape
    operands = state.keys, state.tokens, state.forced, state.pos, state.steps, state.accepted
    _place_draft[pictures, state.window - 1](
        *(*operands, state.target_probs, state.draft_probs, state.last_logits),
        *(width, length, state.window, sampling.codes),
        SPECULATIVE=sampling.speculative,
        GUESSES=sampling.guesses,
        UNIFORM=sampling.new_drafts == RANDOM,
        INTERPRETED=not state.tokens.is_cuda,
        BLOCK=block,
        num_warps=warps_for(block) if warps is None else warps,
    )


def warps_for(block: int, speculative: bool = False) -> int:
    """Warps that hold a row of `block` values in registers; two distributions more where the rule is speculative."""
    return max(1, min(32 if speculative else 16, block // 512))
