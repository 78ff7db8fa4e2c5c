"""The references of the kernels that move a window, in plain torch operations, with the kernels' signatures."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from . import sampling as equations
from .buffers import Buffers
from .kv_tensor import KVTensor
from .noise import ACCEPT, FRESH, REDRAW, code_noise, code_times, gumbel_noise, hashed, to_uniform
from .reference import gumbel_draw, min_p_cut, top_p_cut, topk_cut
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
    """The first `slots` tokens of every row and its tree's, S in all: embeddings [R·S,H], their RMSNorm and positions.

    The norm is [R·S,H] too, positions [R,S]. `embedding` [K,H] is that of the codes, `end_of_row` [H] that of an end of
    row.
    """
    embedded, input_pos = window_embeddings(state, slots, lambda tokens: F.embedding(tokens, embedding), end_of_row)
    x = embedded.flatten(0, 1)
    return x, F.rms_norm(x, norm_weight.shape, norm_weight, eps), input_pos


def window_embeddings(
    state: WindowState, slots: int, embed: Callable[[Tensor], Tensor], end_of_row: Tensor
) -> tuple[Tensor, Tensor]:
    """Embeddings [R,S,H] and positions [R,S] of the first slots and the tree's nodes; `embed` embeds codes."""
    index = state.indices(0, slots)
    tokens = state.tokens.gather(1, index)
    tokens[:, slots + state.lanes[:, 3]] = state.heads
    embedded = embed(tokens)
    embedded = torch.where(state.layout.is_end_of_row(index).unsqueeze(-1), end_of_row, embedded)
    branches = len(state.offset) // len(index)
    return embedded.repeat(branches, 1, 1), index.repeat(branches, 1) + state.offset[:, None]


def draw_window(logits: Tensor, state: WindowState, width: int, buffers: Buffers | None = None) -> Drawn:
    """The tokens after the first `width` slots and the tree's nodes, of logits [R,S,K] at all slots and nodes that ran.

    `gumbel`: argmax(log p + g), with noise g fixed by index; a draft that equals this token stays. `sjd`, `coupled`: a
    draft stays with min(1, p/q), and is else redrawn from the residual; the last slot has none and is drawn from p. A
    forced token always stays. Writes `target_probs` and `last_logits` of the state where it keeps them.
    """
    sampling, index, ranks = state.sampling, state.indices(1, width), state.tree.ranks
    first_node = logits.shape[1] - len(state.depths)
    of_window = logits[:, :width]
    values = guided_logits(torch.cat((of_window, logits[:, first_node:]), 1) if ranks else of_window, sampling)
    drafts, forced = state.tokens.gather(1, index), state.forced.gather(1, index)
    if sampling.guesses:
        state.last_logits.copy_(cut(values[:, width - 1], sampling))
    if sampling.speculative:
        tokens, fresh, kept = _speculate(values, state, drafts)
        others = tokens.new_empty(*tokens.shape, 0)
    else:
        noise = gumbel_noise(state.keys, index, sampling.codes)
        whole = not sampling.cuts_by_probability
        tokens = fresh = (
            gumbel_draw(values, noise, sampling.top_k) if whole else (cut(values, sampling) + noise).argmax(-1)
        )
        kept = tokens == drafts
        others = runners_up(noise.add_(values), tokens, ranks)
    tokens, fresh = torch.where(forced, drafts, tokens), torch.where(forced, drafts, fresh)
    log_probs = values.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - values.logsumexp(-1)
    return Drawn(tokens, fresh, kept | forced, log_probs, others)


def runners_up(values: Tensor, tokens: Tensor, count: int) -> Tensor:
    """The codes of the largest values [N,S,K] but the tokens [N,S], the largest first: [N,S,count]. Changes values."""
    others = tokens.new_empty(*tokens.shape, count)
    for rank in range(count):
        values.scatter_(-1, tokens.unsqueeze(-1), -torch.inf)
        others[..., rank] = tokens = values.argmax(-1)
    return others


def guided_logits(logits: Tensor, sampling: Sampling) -> Tensor:
    """Guided logits over the temperature in float32, [N,W,K] of those of all rows [R,W,K]."""
    if sampling.guided:
        cond, uncond = logits.chunk(2)
        logits = equations.guide(cond, uncond, sampling.cfg_scale)
    return logits.float() / sampling.temperature


def cut(values: Tensor, sampling: Sampling) -> Tensor:
    """Logits [...,K] with the codes that are not drawn from at −inf: by top-k, then top-p, then min-p."""
    if sampling.top_k < sampling.codes:
        values = topk_cut(values, sampling.top_k)
    if sampling.top_p < 1:
        values = top_p_cut(values, sampling.top_p)
    return min_p_cut(values, sampling.min_p) if sampling.min_p > 0 else values


def _speculate(values: Tensor, state: WindowState, drafts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens by the rules of `couple`, draws from p alone, and which drafts stay, each [N,width]."""
    width, index = drafts.shape[1], state.index(1, drafts.shape[1])
    target_probs = cut(values, state.sampling).softmax(-1)
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
    layout, width = state.layout, drawn.tokens.shape[1] - len(state.depths)
    following, slot = state.index(1, width), state.slot[:width]
    length = equations.accept_length(drawn.agree[:, : width - 1])[:, None]
    source = slot.expand(len(length), -1)
    if state.tree.lanes:
        source, length = follow_lane(state, drawn, length)
    tokens, log_probs = drawn.tokens.gather(1, source), drawn.log_probs.gather(1, source)
    if state.sampling.rule == SJD:
        tokens = torch.where(slot < length, tokens, drawn.fresh)
    state.tokens.scatter_(1, following, tokens)
    state.accepted.copy_(torch.minimum(length.squeeze(1), layout.last - state.pos))
    is_accepted = slot < state.accepted[:, None]
    for kept, new in ((state.accept_step, state.steps[:, None]), (state.log_probs, log_probs)):
        kept.scatter_(1, following, torch.where(is_accepted, new, kept.gather(1, following)))
    if state.tree.lanes:
        _place_heads(state, drawn.others, source)
    known = following[:, -1:]
    state.pos.add_(state.accepted)
    if state.window > 1 and not state.sampling.guesses:
        index = state.index(1, state.window - 1)
        write_new(state, index, known, new_drafts(state, index, known))
    state.steps.add_(1)


def follow_lane(state: WindowState, drawn: Drawn, length: Tensor) -> tuple[Tensor, Tensor]:
    """Where the token at each place comes from [N,width], and the accept length [N,1] with a lane's nodes.

    A lane goes on where its first code is the token that was drawn instead of the first draft that did not stay: its
    nodes then have the right tokens before them, as far as the drafts among them stay. All its tokens replace those of
    the window at the same places. Writes `branch`.
    """
    width = drawn.tokens.shape[1] - len(state.depths)
    instead = drawn.tokens.gather(1, length - 1)
    first, nodes, right = (torch.zeros_like(length) for _ in range(3))
    for number, lane in enumerate(state.tree.lanes):
        taken = (length == lane.depth) & (state.heads[:, number, None] == instead)
        columns = slice(width + lane.first, width + lane.first + lane.length - 1)
        along = equations.accept_length(drawn.agree[:, columns])[:, None]
        first, nodes = torch.where(taken, lane.first, first), torch.where(taken, lane.length, nodes)
        right = torch.where(taken, along, right)
    state.branch.copy_(torch.cat((first, state.pos[:, None] + length, right), 1))
    slot = state.slot[:width]
    on_lane = (slot >= length) & (slot < length + nodes)
    return torch.where(on_lane, width + first + slot - length, slot), length + right


def _place_heads(state: WindowState, others: Tensor, source: Tensor) -> None:
    """The next first codes of the lanes: of their rank, at the places after what is accepted."""
    depth, rank = state.lanes[:, 0], state.lanes[:, 1]
    place = state.accepted[:, None] + depth - 1
    picture = torch.arange(len(source), device=source.device)[:, None]
    known = place < source.shape[1]
    slot = source.gather(1, torch.where(known, place, 0))
    state.heads.copy_(torch.where(known, others[picture, slot, rank - 1], 0))


def write_new(state: WindowState, index: Tensor, known: Tensor, drafts: Tensor) -> None:
    """Writes drafts [N,W−1] at the indices after `known` [N,1] that are not forced."""
    is_new = (index > known) & ~state.forced.gather(1, index)
    state.tokens.scatter_(1, index, torch.where(is_new, drafts, state.tokens.gather(1, index)))


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


def keep_branch(state: WindowState, keys: KVTensor, values: KVTensor) -> tuple[KVTensor, KVTensor]:
    """Copies keys and values of the lane's nodes that were accepted to the slots of their positions.

    Both hold all layers [layers·R,length,kv_heads,head_dim]; the tree's nodes are in the last slots. Returns both.
    """
    node, branches = state.slot[: state.tree.longest], len(state.offset) // len(state.pos)
    first, index, count = (part[:, None] for part in state.branch.unbind(1))
    target = (index + node).repeat(branches, 1) + state.offset[:, None]
    source = (keys.values.shape[1] - len(state.tree) + first + node).repeat(branches, 1)
    source = torch.where((node < count).repeat(branches, 1), source, target)
    layers = len(keys.values) // len(target)
    row = torch.arange(len(keys.values), device=target.device)[:, None]
    for stored in (keys, values):
        stored.move(row, source.repeat(layers, 1), target.repeat(layers, 1))
    return keys, values


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
