"""The references of the kernels that move a window, in plain torch operations, with the kernels' signatures."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from . import sampling as equations
from .buffers import Buffers
from .noise import ACCEPT, FRESH, REDRAW, code_noise, code_times, gumbel_noise, hashed, to_uniform
from .reference import gumbel_draw, topk_cut
from .window_state import ABOVE, GUESS, LEFT, RANDOM, SJD, Drawn, Sampling, WindowState


def embed_window(
    state: WindowState,
    slots: int,
    embedding: Tensor,
    end_of_row: Tensor,
    norm_weight: Tensor,
    eps: float,
    buffers: Buffers | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The first `slots` tokens S of every row: embeddings [R·S,H], their RMSNorm [R·S,H] and positions [R,S].

    `embedding` [K,H] is that of the codes, `end_of_row` [H] that of an end of row.
    """
    embedded, input_pos = window_embeddings(state, slots, lambda tokens: F.embedding(tokens, embedding), end_of_row)
    x = embedded.flatten(0, 1)
    return x, F.rms_norm(x, norm_weight.shape, norm_weight, eps), input_pos


def window_embeddings(
    state: WindowState, slots: int, embed: Callable[[Tensor], Tensor], end_of_row: Tensor
) -> tuple[Tensor, Tensor]:
    """Embeddings [R,S,H] and positions [R,S] of the first S slots; `embed` embeds codes."""
    index = state.index(0, slots)
    embedded = embed(state.tokens.gather(1, index))
    embedded = torch.where(state.layout.is_end_of_row(index).unsqueeze(-1), end_of_row, embedded)
    branches = len(state.offset) // len(index)
    return embedded.repeat(branches, 1, 1), index.repeat(branches, 1) + state.offset[:, None]


def draw_window(logits: Tensor, state: WindowState, width: int, buffers: Buffers | None = None) -> Drawn:
    """The tokens after the first `width` slots, of logits [R,S,K] at all slots that ran.

    `gumbel`: argmax(log p + g), with noise g fixed by index; a draft that equals this token stays. `sjd`, `coupled`: a
    draft stays with min(1, p/q), and is else redrawn from the residual; the last slot has none and is drawn from p. A
    forced token always stays, as 0. Writes `target_probs` and `last_logits` of the state where it keeps them.
    """
    sampling, index = state.sampling, state.index(1, width)
    values = guided_logits(logits[:, :width], sampling)
    drafts, forced = state.tokens.gather(1, index), state.layout.is_forced(index)
    if sampling.guesses:
        state.last_logits.copy_(topk_cut(values[:, -1], min(sampling.top_k, sampling.codes)))
    if sampling.speculative:
        tokens, fresh, kept = _speculate(values, state, drafts)
    else:
        tokens = fresh = gumbel_draw(values, state.keys, index, sampling.top_k)
        kept = tokens == drafts
    tokens, fresh = torch.where(forced, 0, tokens), torch.where(forced, 0, fresh)
    log_probs = values.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - values.logsumexp(-1)
    return Drawn(tokens, fresh, kept | forced, torch.where(forced, 0, log_probs))


def guided_logits(logits: Tensor, sampling: Sampling) -> Tensor:
    """Guided logits over the temperature in float32, [N,W,K] of those of all rows [R,W,K]."""
    if sampling.guided:
        cond, uncond = logits.chunk(2)
        logits = equations.guide(cond, uncond, sampling.cfg_scale)
    return logits.float() / sampling.temperature


def _speculate(values: Tensor, state: WindowState, drafts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens by the rules of `couple`, draws from p alone, and which drafts stay, each [N,width]."""
    width, index = drafts.shape[1], state.index(1, drafts.shape[1])
    if state.sampling.top_k < state.sampling.codes:
        values = topk_cut(values, state.sampling.top_k)
    target_probs = values.softmax(-1)
    state.target_probs[:, :width] = target_probs
    times = code_times(step_hash(state, REDRAW, index), state.sampling.codes)
    uniform = to_uniform(step_hash(state, ACCEPT, index))
    tokens, kept = equations.couple(
        target_probs[:, :-1], state.draft_probs[:, : width - 1], drafts[:, :-1], uniform[:, :-1], times[:, :-1]
    )
    # `sjd` may take any of these, `coupled` the last.
    first = 0 if state.sampling.rule == SJD else width - 1
    fresh = equations.draw(target_probs[:, first:], times[:, first:])
    tokens = torch.cat((tokens, fresh[:, -1:]), 1)
    return tokens, fresh if first == 0 else tokens, F.pad(kept, (0, 1))


def step_hash(state: WindowState, stream: int, index: Tensor) -> Tensor:
    """Hashes [N,S] that no other forward, index [N,S] or stream has."""
    return hashed(state.keys[:, None], stream, index, state.steps[:, None])


def accept_window(state: WindowState, drawn: Drawn) -> None:
    """Accepts the drafts before the first that does not stay, and one token more; moves the window there.

    New drafts come after the window's last token: copies of the code above or at the left, or random codes; guesses are
    drawn by `place_drafts`.
    """
    layout, width = state.layout, drawn.tokens.shape[1]
    following, slot = state.index(1, width), state.slot[:width]
    length = equations.accept_length(drawn.agree[:, :-1])[:, None]
    tokens = torch.where(slot < length, drawn.tokens, drawn.fresh) if state.sampling.rule == SJD else drawn.tokens
    state.tokens.scatter_(1, following, tokens)
    state.accepted.copy_(torch.minimum(length.squeeze(1), layout.last - state.pos))
    is_accepted = slot < state.accepted[:, None]
    for kept, new in ((state.accept_step, state.steps[:, None]), (state.log_probs, drawn.log_probs)):
        kept.scatter_(1, following, torch.where(is_accepted, new, kept.gather(1, following)))
    known = following[:, -1:]
    state.pos.add_(state.accepted)
    if state.window > 1 and not state.sampling.guesses:
        index = state.index(1, state.window - 1)
        write_new(state, index, known, new_drafts(state, index, known))
    state.steps.add_(1)


def write_new(state: WindowState, index: Tensor, known: Tensor, drafts: Tensor) -> None:
    """Writes drafts [N,W−1] at the indices after `known` [N,1]; forced ones as 0."""
    drafts = torch.where(state.layout.is_forced(index), 0, drafts)
    state.tokens.scatter_(1, index, torch.where(index > known, drafts, state.tokens.gather(1, index)))


def new_drafts(state: WindowState, index: Tensor, known: Tensor) -> Tensor:
    """Drafts at indices [N,W−1] after `known` [N,1]; every way is exact, it only decides how many are accepted.

    above: the nearest known code in the same column, in the first row the last known code; left: the last known code;
    random: any code.
    """
    layout, codes = state.layout, state.sampling.codes
    if state.sampling.new_drafts == RANDOM:
        return (to_uniform(step_hash(state, FRESH, index)) * codes).long().clamp_max(codes - 1)
    last_code = torch.where(layout.is_end_of_row(known), known - 1, known)
    source = last_code.expand_as(index)
    if state.sampling.new_drafts == ABOVE:
        rows_up = torch.div(index - known + layout.row_length - 1, layout.row_length, rounding_mode="floor")
        above = index - rows_up * layout.row_length
        source = torch.where(above < layout.header, source, above)
    return state.tokens.gather(1, source)


def place_drafts(state: WindowState, width: int) -> None:
    """Draws guessed drafts, and moves `draft_probs` with the window that a forward of `width` slots moved.

    The q of a draft is the p that this forward gave it (arXiv 2410.01699); that of a new draft is what it was drawn
    from.
    """
    sampling, index = state.sampling, state.index(1, state.window - 1)
    known = (state.pos - state.accepted)[:, None] + width
    if sampling.guesses:
        write_new(state, index, known, (state.last_logits[:, None] + _guess_noise(state, index)).argmax(-1))
    if sampling.speculative:
        probs = torch.cat((state.target_probs[:, :width], new_draft_probs(state, known, width)), 1)
        picture = torch.arange(len(probs), device=probs.device)[:, None]
        state.draft_probs.copy_(probs[picture, state.accepted[:, None] + state.slot[: state.window - 1]])


def _guess_noise(state: WindowState, index: Tensor) -> Tensor:
    if not state.sampling.speculative:
        return gumbel_noise(state.keys, index, state.sampling.codes)
    hashes = hashed(state.keys[:, None], FRESH, index, state.steps[:, None] - 1)
    return code_noise(hashes, state.sampling.codes)


def new_draft_probs(state: WindowState, known: Tensor, width: int) -> Tensor:
    """What the W−1 drafts after the index `known` [N,1] were drawn from, [N,W−1,K]: certain if copied."""
    way, codes, count = state.sampling.new_drafts, state.sampling.codes, state.window - 1
    if way == GUESS:
        return state.target_probs[:, width - 1 : width].expand(-1, count, -1)
    if way == RANDOM:
        return state.target_probs.new_full((), 1 / codes).expand(len(known), count, codes)
    assert way in (ABOVE, LEFT)
    drafts = state.tokens.gather(1, known + 1 + state.slot[:count])
    return F.one_hot(drafts, codes).to(state.target_probs.dtype)
