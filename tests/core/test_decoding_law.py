"""Every decoder draws from the autoregressive law, by chi-square on all outcomes; known slips fail the same check."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lumina_core.decoding import loop, window
from lumina_core.decoding.settings import DecodeSettings
from lumina_core.kernels import sampling, window_reference
from lumina_core.kernels.reference import topk_cut
from lumina_core.kernels.window_state import Drawn, Sampling, WindowState
from lumina_core.model.kv_cache import KVCache, WindowPlan
from lumina_core.model.run_kernels import RunKernels
from lumina_core.model.transformer import Transformer

from .toys import Toy, fit, toy_transformer

WAYS = ("above", "left", "random", "guess")
WINDOWS = (2, 3, 5, 8)
# Pictures of 3 rows of 2 codes below a given row, 8 tokens; 3 of 4 codes are possible at each: 729 outcomes.
GUIDED = DecodeSettings(cfg_scale=2.0, top_k=3, temperature=0.5)
# Pictures of 4 rows of 2 codes, 11 tokens, all of 3 codes possible: 6561 outcomes for each of two prompts in a batch.
LONG = DecodeSettings(cfg_scale=1.0, top_k=3)
# Of 4 codes top-k leaves 3 everywhere, top-p and min-p fewer in places.
CUT = replace(GUIDED, top_p=0.9, min_p=0.1)
TWO_PROMPTS = ((20, 4), (22, 23, 24, 4))
PICTURES = 4000

CASES = [
    *itertools.product(("sjd", "coupled"), WINDOWS, WAYS),
    *zip(("gumbel",) * 4, WINDOWS, WAYS, strict=True),
    *((decoder, 1, "above") for decoder in ("ar", "sjd", "coupled")),
]
LONG_CASES = [*itertools.product(("sjd", "coupled"), (5, 11), ("above", "guess"))]
# Windows, ways to begin new drafts and nodes of the draft tree, of `gumbel`.
TREE_CASES = [*zip((2, 3, 5, 8), WAYS, (3, 5, 8, 16), strict=True), (8, "above", 4)]
LONG_TREE_CASES = [(5, "above", 8), (11, "guess", 24)]
# Of pictures of 5 rows of 2 codes of which four are given, two of them among the six that are drawn; then with a tree.
MASKED_CASES = [
    *(("ar", 1, "above", 0), ("gumbel", 5, "random", 0), ("gumbel", 8, "above", 8), ("gumbel", 3, "guess", 4)),
    *(("sjd", 2, "above", 0), ("sjd", 5, "guess", 0), ("sjd", 8, "random", 0)),
    *(("coupled", 3, "left", 0), ("coupled", 5, "guess", 0), ("coupled", 8, "above", 0)),
]
# Decoders, windows and ways to begin new drafts; the tree has a case of its own.
CUT_CASES = [
    *(("ar", 1, "above"), ("gumbel", 5, "guess")),
    *itertools.product(("sjd", "coupled"), (5,), ("above", "guess")),
]
NEGATIVE = (25, 26, 27, 4)
NEGATIVE_CASES = [("ar", 1, "above"), ("gumbel", 5, "left"), ("sjd", 5, "guess"), ("coupled", 5, "above")]
# Of all windows with all ways to begin drafts, these run with every test; the others are slow ones.
QUICK = set(zip(WINDOWS, WAYS, strict=True)) | {(1, "above")}
# The chance that a right engine fails anywhere here is at most 1e-4, were the seeds drawn anew (Bonferroni). A slip has
# to fall below the same threshold.
_EVERY = CASES, LONG_CASES, TREE_CASES, LONG_TREE_CASES, MASKED_CASES, CUT_CASES, NEGATIVE_CASES, [""]
THRESHOLD = 1e-4 / sum(map(len, _EVERY))

Patch = pytest.MonkeyPatch
PLAIN = RunKernels()


@pytest.fixture(scope="module", autouse=True)
def _short_reads() -> Iterator[None]:
    """The cache is read as far as these short pictures reach, which saves much of the time."""
    with Patch.context() as patch:
        patch.setattr(loop, "KV_LEN_STEP", 16)
        yield


@pytest.fixture(scope="module")
def guided() -> tuple[Toy, Tensor]:
    toy = Toy(toy_transformer(4, hidden=8, heads=1, spread=0.5), 4, 2, ((20, 21, 4),), torch.tensor([[0, 3]]))
    return toy, toy.law(GUIDED)


@pytest.fixture(scope="module")
def long() -> tuple[Toy, Tensor]:
    toy = Toy(
        toy_transformer(3, hidden=8, heads=1, spread=2.0), 4, 2, TWO_PROMPTS, torch.zeros(0, 2, dtype=torch.int64)
    )
    return toy, toy.law(LONG)


@pytest.fixture(scope="module")
def masked() -> tuple[Toy, Tensor]:
    given = torch.tensor([[0, 3], [2, 1], [3, 0], [0, 2], [1, 1]])
    mask = torch.tensor([[0, 0], [1, 0], [1, 1], [0, 1], [1, 1]]).bool()
    toy = Toy(toy_transformer(4, hidden=8, heads=1, spread=0.5), 5, 2, ((20, 21, 4),), given, mask)
    return toy, toy.law(GUIDED)


@pytest.fixture(scope="module")
def cut(guided: tuple[Toy, Tensor]) -> tuple[Toy, Tensor]:
    return guided[0], guided[0].law(CUT)


def p_value(toy: Toy, law: Tensor, settings: DecodeSettings) -> float:
    return fit(toy.counts(toy.decode(settings, PICTURES)), law)


def of(settings: DecodeSettings, decoder: str, width: int, way: str, seed: int = 0) -> DecodeSettings:
    return replace(settings, decoder=decoder, window_size=width, new_drafts=way, seed=seed)


@pytest.mark.parametrize(
    ("decoder", "width", "way"),
    [case if case[1:] in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_law(guided: tuple[Toy, Tensor], decoder: str, width: int, way: str) -> None:
    seed = PICTURES * CASES.index((decoder, width, way))
    assert p_value(*guided, of(GUIDED, decoder, width, way, seed)) > THRESHOLD


@pytest.mark.parametrize(("decoder", "width", "way"), LONG_CASES)
def test_law_over_many_steps(long: tuple[Toy, Tensor], decoder: str, width: int, way: str) -> None:
    seed = PICTURES * LONG_CASES.index((decoder, width, way))
    assert p_value(*long, of(LONG, decoder, width, way, seed)) > THRESHOLD


@pytest.mark.slow
@pytest.mark.parametrize(("width", "way", "nodes"), TREE_CASES)
def test_law_with_a_tree(guided: tuple[Toy, Tensor], width: int, way: str, nodes: int) -> None:
    seed = PICTURES * TREE_CASES.index((width, way, nodes))
    assert p_value(*guided, replace(of(GUIDED, "gumbel", width, way, seed), tree=nodes)) > THRESHOLD


def test_the_law_of_a_cut_is_another(guided: tuple[Toy, Tensor], cut: tuple[Toy, Tensor]) -> None:
    """Each of top-p and min-p leaves fewer outcomes, and none of them all but one."""
    laws = [guided[1], *(guided[0].law(replace(CUT, **change)) for change in ({"min_p": 0.0}, {"top_p": 1.0})), cut[1]]
    whole, by_top_p, by_min_p, by_both = (int((law > 0).sum()) for law in laws)
    assert whole > max(by_top_p, by_min_p) and min(by_top_p, by_min_p) > by_both > 20


@pytest.mark.parametrize(("decoder", "width", "way"), CUT_CASES)
def test_law_with_top_p_and_min_p(cut: tuple[Toy, Tensor], decoder: str, width: int, way: str) -> None:
    seed = PICTURES * CUT_CASES.index((decoder, width, way))
    assert p_value(*cut, of(CUT, decoder, width, way, seed)) > THRESHOLD


@pytest.mark.parametrize(("decoder", "width", "way"), NEGATIVE_CASES)
def test_law_with_a_negative_prompt(guided: tuple[Toy, Tensor], decoder: str, width: int, way: str) -> None:
    """Which is another than without: the test tells them apart."""
    toy = replace(guided[0], negative=NEGATIVE)
    seed = PICTURES * NEGATIVE_CASES.index((decoder, width, way))
    counts = toy.counts(toy.decode(of(GUIDED, decoder, width, way, seed), PICTURES))
    assert fit(counts, toy.law(GUIDED)) > THRESHOLD > fit(counts, guided[1])


@pytest.mark.slow
def test_law_with_top_p_and_min_p_and_a_tree(cut: tuple[Toy, Tensor]) -> None:
    assert p_value(*cut, replace(of(CUT, "gumbel", 8, "above"), tree=16)) > THRESHOLD


@pytest.mark.slow
@pytest.mark.parametrize(("width", "way", "nodes"), LONG_TREE_CASES)
def test_law_with_a_tree_over_many_steps(long: tuple[Toy, Tensor], width: int, way: str, nodes: int) -> None:
    seed = PICTURES * LONG_TREE_CASES.index((width, way, nodes))
    assert p_value(*long, replace(of(LONG, "gumbel", width, way, seed), tree=nodes)) > THRESHOLD


@pytest.mark.parametrize(
    ("decoder", "width", "way", "nodes"),
    [pytest.param(*case, marks=pytest.mark.slow) if case[3] else case for case in MASKED_CASES],
)
def test_law_with_given_codes_among_the_drawn(
    masked: tuple[Toy, Tensor], decoder: str, width: int, way: str, nodes: int
) -> None:
    seed = PICTURES * MASKED_CASES.index((decoder, width, way, nodes))
    assert p_value(*masked, replace(of(GUIDED, decoder, width, way, seed), tree=nodes)) > THRESHOLD


def drop_residual(patch: Patch) -> None:
    """A rejected draft is redrawn from p."""
    patch.setattr(sampling, "residual", lambda target_probs, draft_probs: target_probs)


def warp_again(patch: Patch) -> None:
    """Temperature and top-k a second time, on the residual. (Top-k alone cuts nothing: its codes are among p's k.)"""
    residual = sampling.residual

    def warped(target_probs: Tensor, draft_probs: Tensor) -> Tensor:
        logits = residual(target_probs, draft_probs).log() / GUIDED.temperature
        return topk_cut(logits, GUIDED.top_k).softmax(-1)

    patch.setattr(sampling, "residual", warped)


def reuse_uniform(patch: Patch) -> None:
    """The number that rejected the draft also redraws it, by the inverse of the residual's cumulative sum."""

    def couple(
        target_probs: Tensor, draft_probs: Tensor, drafts: Tensor, uniform: Tensor, _: Tensor
    ) -> tuple[Tensor, Tensor]:
        accepted = sampling.accept(target_probs, draft_probs, drafts, uniform)
        cumulative = sampling.residual(target_probs, draft_probs).cumsum(-1)
        redrawn = (cumulative <= uniform.unsqueeze(-1) * cumulative[..., -1:]).sum(-1)
        return torch.where(accepted, drafts, redrawn), accepted

    patch.setattr(sampling, "couple", couple)


def same_uniform_in_all_steps(patch: Patch) -> None:
    """A position has the same numbers in every forward."""
    hashed = window_reference.hashed
    patch.setattr(window_reference, "hashed", lambda *others: hashed(*others[:-1], others[-1] * 0))


def misname_new_drafts(patch: Patch) -> None:
    """Copied codes count as drawn uniformly."""
    named = window_reference.new_draft_probs

    def misnamed(*arguments: Any) -> Tensor:
        probs = named(*arguments)
        return torch.full_like(probs, 1 / probs.shape[-1])

    patch.setattr(window_reference, "new_draft_probs", misnamed)


def guide_later(patch: Patch) -> None:
    """No guidance in the first two forwards."""
    forwards, guide = itertools.count(), sampling.guide
    patch.setattr(
        sampling,
        "guide",
        lambda cond, uncond, cfg_scale: guide(cond, uncond, cfg_scale if next(forwards) > 1 else 1.0),
    )


def draw_by(patch: Patch, draw: Callable[[Tensor, WindowState, int], Drawn]) -> None:
    """The engine with another function for `draw_window`."""

    def draw_window(logits: Tensor, state: WindowState, width: int, buffers: object = None) -> Drawn:
        return draw(logits, state, width)

    patch.setattr(Transformer, "choose_kernels", lambda *_: RunKernels(draw_window=draw_window))


def stale_draft_probs(patch: Patch) -> None:
    """A draft that is kept keeps its old q."""

    def draw(logits: Tensor, state: WindowState, width: int) -> Drawn:
        drawn = window_reference.draw_window(logits, state, width)
        drafts = state.tokens.gather(1, state.index(1, width - 1))
        kept = (drawn.tokens[:, :-1] == drafts).unsqueeze(-1)
        known = state.target_probs[:, : width - 1]
        known.copy_(torch.where(kept, state.draft_probs[:, : width - 1], known))
        return drawn

    draw_by(patch, draw)


def wrong_bonus(patch: Patch) -> None:
    """The token after a window that is accepted whole comes from the last p but one."""

    def draw(logits: Tensor, state: WindowState, width: int) -> Drawn:
        wrong = window_reference.draw_window(logits[:, [*range(width - 1), max(width - 2, 0)]], state, width)
        drawn = window_reference.draw_window(logits, state, width)
        is_whole = drawn.agree[:, :-1].all(1, keepdim=True)
        return drawn._replace(tokens=torch.where(is_whole, wrong.tokens, drawn.tokens))

    draw_by(patch, draw)


def leave_draft_probs(patch: Patch) -> None:
    """The q of a draft stays with the slot while the window moves."""

    def placed(state: WindowState, width: int) -> None:
        window_reference.place_drafts(state, width)
        new = window_reference.new_draft_probs(state, (state.pos - state.accepted)[:, None] + width, width)
        state.draft_probs.copy_(torch.cat((state.target_probs[:, :width], new), 1)[:, : state.window - 1])

    patch.setattr(Transformer, "choose_kernels", lambda *_: RunKernels(place_drafts=placed))


def noise_of_slot(patch: Patch) -> None:
    """Gumbel noise that stays with the slot while the window moves."""
    noise = window_reference.gumbel_noise
    patch.setattr(window_reference, "gumbel_noise", lambda keys, index, codes: noise(keys, index - index[:, :1], codes))


def any_lane(patch: Patch) -> None:
    """A lane is followed whatever its first code is."""
    follow = window_reference.follow_lane

    def followed(state: WindowState, drawn: Drawn, length: Tensor) -> tuple[Tensor, Tensor]:
        for number, lane in enumerate(state.tree.lanes):
            state.heads[:, number] = drawn.tokens[:, lane.depth - 1]
        return follow(state, drawn, length)

    patch.setattr(window_reference, "follow_lane", followed)


def whole_lane(patch: Patch) -> None:
    """A lane that is followed is accepted to its end."""
    follow = window_reference.follow_lane

    def followed(state: WindowState, drawn: Drawn, length: Tensor) -> tuple[Tensor, Tensor]:
        agree = drawn.agree.clone()
        agree[:, -len(state.tree) :] = True
        return follow(state, drawn._replace(agree=agree), length)

    patch.setattr(window_reference, "follow_lane", followed)


def leave_branch(patch: Patch) -> None:
    """The cache keeps what the window's drafts put there, also where a lane was accepted."""
    patch.setattr(Transformer, "choose_kernels", lambda *_: replace(PLAIN, keep_branch=lambda *_: None))


def see_the_window(patch: Patch) -> None:
    """A lane's nodes see the window's drafts at their places."""

    def plan(cache: KVCache, input_pos: Tensor, kv_len: int, *_: Any) -> WindowPlan:
        return WindowPlan(cache, input_pos, kv_len)

    patch.setattr(KVCache, "plan", plan)


def no_noise(patch: Patch) -> None:
    """The tokens after a tree's nodes are the likeliest codes."""
    noise = window_reference.gumbel_noise

    def silent(keys: Tensor, index: Tensor, codes: int) -> Tensor:
        made = noise(keys, index, codes)
        made[:, 8:] = 0
        return made

    patch.setattr(window_reference, "gumbel_noise", silent)


TREE_SLIPS = [any_lane, whole_lane, leave_branch, see_the_window, no_noise]


@pytest.mark.slow
@pytest.mark.parametrize("slip", TREE_SLIPS)
def test_slip_of_a_tree_is_caught(guided: tuple[Toy, Tensor], slip: Callable, monkeypatch: Patch) -> None:
    slip(monkeypatch)
    assert p_value(*guided, replace(of(GUIDED, "gumbel", 8, "above"), tree=16)) < THRESHOLD


def hide_given(patch: Patch, rows: slice = slice(None)) -> None:
    """The model sees the code above in the place of a given one, in some rows of the batch."""
    embeddings = window_reference.window_embeddings

    def hidden(state: WindowState, *others: Any) -> tuple[Tensor, Tensor]:
        above = state.tokens.roll(state.layout.row_length, 1)
        unseen = replace(state, tokens=torch.where(state.forced, above, state.tokens))
        embedded, input_pos = embeddings(state, *others)
        embedded[rows] = embeddings(unseen, *others)[0][rows]
        return embedded, input_pos

    patch.setattr(window, "window_embeddings", hidden)


def hide_given_from_unconditional(patch: Patch) -> None:
    """The unconditional branch does not see given codes."""
    hide_given(patch, slice(PICTURES, None))


@pytest.mark.parametrize(
    ("slip", "decoder", "way"),
    [
        (hide_given, "gumbel", "above"),
        (hide_given_from_unconditional, "gumbel", "above"),
        (hide_given_from_unconditional, "coupled", "guess"),
    ],
)
def test_slip_of_given_codes_is_caught(
    masked: tuple[Toy, Tensor], slip: Callable, decoder: str, way: str, monkeypatch: Patch
) -> None:
    slip(monkeypatch)
    assert p_value(*masked, of(GUIDED, decoder, 5, way)) < THRESHOLD


SLIPS = [
    *itertools.product([drop_residual, warp_again, reuse_uniform], ["sjd", "coupled"], [5], ["guess"]),
    *itertools.product([misname_new_drafts, guide_later], ["sjd", "coupled"], [5], ["above"]),
    (guide_later, "gumbel", 5, "above"),
    (guide_later, "ar", 1, "above"),
    (stale_draft_probs, "coupled", 8, "guess"),
    (same_uniform_in_all_steps, "coupled", 8, "above"),
    *itertools.product([leave_draft_probs], ["sjd", "coupled"], [5], ["guess"]),
    *((wrong_bonus, decoder, 2, "guess") for decoder in ("sjd", "coupled")),
    (noise_of_slot, "gumbel", 5, "above"),
]


@pytest.mark.parametrize(("slip", "decoder", "width", "way"), SLIPS)
def test_slip_is_caught(
    guided: tuple[Toy, Tensor], slip: Callable, decoder: str, width: int, way: str, monkeypatch: Patch
) -> None:
    slip(monkeypatch)
    assert p_value(*guided, of(GUIDED, decoder, width, way)) < THRESHOLD


def min_p_before_temperature(patch: Patch) -> None:
    """Min-p compares probabilities at a temperature of one."""
    right = window_reference.cut

    def slip(values: Tensor, asked: Sampling) -> Tensor:
        at_one = right(values * asked.temperature, replace(asked, top_k=asked.codes, top_p=1.0))
        return right(values, replace(asked, min_p=0.0)).masked_fill(at_one == -torch.inf, -torch.inf)

    patch.setattr(window_reference, "cut", slip)


def top_p_leaves_the_last(patch: Patch) -> None:
    """The code that reaches top-p is cut too, but for the likeliest."""
    right = window_reference.top_p_cut

    def slip(logits: Tensor, top_p: float) -> Tensor:
        kept = right(logits, top_p)
        last = kept == kept.masked_fill(kept == -torch.inf, torch.inf).amin(-1, keepdim=True)
        return kept.masked_fill(last & (kept < kept.amax(-1, keepdim=True)), -torch.inf)

    patch.setattr(window_reference, "top_p_cut", slip)


CUT_SLIPS = [
    *itertools.product([min_p_before_temperature, top_p_leaves_the_last], ["ar", "coupled"]),
    (min_p_before_temperature, "gumbel"),
]


@pytest.mark.parametrize(("slip", "decoder"), CUT_SLIPS)
def test_slip_of_the_cut_is_caught(cut: tuple[Toy, Tensor], slip: Callable, decoder: str, monkeypatch: Patch) -> None:
    slip(monkeypatch)
    assert p_value(*cut, of(CUT, decoder, 1 if decoder == "ar" else 5, "above")) < THRESHOLD
