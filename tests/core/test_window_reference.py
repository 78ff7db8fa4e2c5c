"""What the references of the kernels that move a window say, told anew token by token."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lumina_core.kernels.sampling import guide
from lumina_core.kernels.window_reference import accept_window, cut, draw_window, embed_window, place_drafts
from lumina_core.kernels.window_samples import (
    accept_window_sample,
    draw_window_sample,
    embed_window_sample,
    window_sample,
)
from lumina_core.kernels.window_state import NEW_DRAFTS, RULES, Drawn, Sampling, WindowState

from ..window_cases import BEFORE, ENDS, FIRST_ROW

CODES, WINDOW, WIDTH = 50, 21, 13
FP32 = torch.float32
# Places of two pictures' last accepted tokens, from which a window reaches into another row or over the end.
PLACES = {"before": BEFORE, "first row": FIRST_ROW, "middle": (45, 100), "ends": ENDS, "late": (205, 214)}
every_rule, every_way = pytest.mark.parametrize("rule", RULES), pytest.mark.parametrize("way", NEW_DRAFTS)
everywhere = pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)


def is_end_of_row(state: WindowState, index: int) -> bool:
    return (index - state.layout.header) % state.layout.row_length == state.layout.row_length - 1


def moved(rule: str, way: str, places: tuple[int, int], width: int = WIDTH) -> tuple[Tensor, WindowState, Drawn]:
    """The tokens before a forward of `width` tokens, the window after it, and what it drew."""
    state, drawn = accept_window_sample("cpu", Sampling(CODES, rule, way), WINDOW)
    state.pos.copy_(torch.tensor(places))
    index = state.index(1, width)
    forced, known = state.forced.gather(1, index), state.tokens.gather(1, index)
    narrow = Drawn(*(part[:, :width] for part in drawn))
    narrow = narrow._replace(
        tokens=torch.where(forced, known, narrow.tokens),
        fresh=torch.where(forced, known, narrow.fresh),
        agree=narrow.agree | forced,
    )
    before = state.tokens.clone()
    accept_window(state, narrow)
    return before, state, narrow


def accept_length(drawn: Drawn, picture: int) -> int:
    return 1 + len(list(itertools.takewhile(bool, drawn.agree[picture, :-1].tolist())))


@everywhere
@every_way
@every_rule
def test_the_kept_drafts_and_one_token_more_are_accepted_and_none_after_the_last(
    rule: str, way: str, places: tuple[int, int]
) -> None:
    _, state, drawn = moved(rule, way, places)
    step = 7
    for picture, start in enumerate(places):
        count = min(accept_length(drawn, picture), state.layout.last - start)
        accepted = list(range(start + 1, start + count + 1))
        assert (int(state.accepted[picture]), int(state.pos[picture])) == (count, start + count)
        assert state.tokens[picture, accepted].tolist() == drawn.tokens[picture, :count].tolist()
        assert state.log_probs[picture, accepted].tolist() == drawn.log_probs[picture, :count].tolist()
        assert (state.accept_step[picture] == step).nonzero().flatten().tolist() == accepted
        assert int(state.log_probs[picture].count_nonzero()) <= count
    assert state.steps.tolist() == [step + 1] * 2


@everywhere
@every_rule
def test_after_the_first_reject_sjd_takes_fresh_tokens_and_the_others_what_was_drawn(
    rule: str, places: tuple[int, int]
) -> None:
    _, state, drawn = moved(rule, "guess", places)
    taken = drawn.fresh if rule == "sjd" else drawn.tokens
    for picture, start in enumerate(places):
        length = accept_length(drawn, picture)
        found = state.tokens[picture, start + 1 + length : start + 1 + WIDTH]
        assert torch.equal(found, taken[picture, length:])


@everywhere
@every_rule
@pytest.mark.parametrize("width", [1, WIDTH])
@pytest.mark.parametrize("way", ["above", "left", "random"])
def test_new_drafts_are_known_codes_or_any(rule: str, way: str, places: tuple[int, int], width: int) -> None:
    before, state, _ = moved(rule, way, places, width)
    layout, drafts = state.layout, []
    for picture, start in enumerate(places):
        known = start + width
        tokens = state.tokens[picture].tolist()
        end = int(state.pos[picture]) + WINDOW
        for index in range(known + 1, end):
            left = known - 1 if is_end_of_row(state, known) else known
            above = index
            while above > known:
                above -= layout.row_length
            if state.forced[picture, index]:
                assert tokens[index] == before[picture, index]
            elif way == "random":
                drafts.append(tokens[index])
            else:
                assert tokens[index] == tokens[left if way == "left" or above < layout.header else above]
        assert tokens[:start] == before[picture, :start].tolist() and tokens[end:] == before[picture, end:].tolist()
    assert all(0 <= code < CODES for code in drafts) and len(set(drafts)) >= len(drafts) / 2


def test_random_drafts_are_others_in_every_forward_and_picture() -> None:
    _, first, _ = moved("gumbel", "random", (45, 45))
    _, second, _ = moved("gumbel", "random", (45, 45))
    again = replace(second, steps=second.steps + 1)
    assert torch.equal(first.tokens, second.tokens)
    dtypes = torch.int64, torch.int64, torch.bool, FP32
    drawn = Drawn(*(torch.zeros(2, 1, dtype=dtype) for dtype in dtypes), torch.zeros(2, 1, 0, dtype=torch.int64))
    rows = []
    for state in (second, again):
        state.pos.fill_(45)
        accept_window(state, drawn)
        rows += state.tokens[:, 48:53].tolist()
    assert len(set(map(tuple, rows))) == len(rows)


@every_rule
@pytest.mark.parametrize("places", [PLACES["ends"], PLACES["late"]], ids=["ends", "late"])
def test_guessed_drafts_are_drawn_from_the_last_logits_after_what_is_known(rule: str, places: tuple[int, int]) -> None:
    _, state, _ = moved(rule, "guess", places)
    before = state.tokens.clone()
    state.last_logits.fill_(-torch.inf)[:, 3] = 0
    place_drafts(state, WIDTH)
    for picture, start in enumerate(places):
        new = range(start + WIDTH + 1, int(state.pos[picture]) + WINDOW)
        expected = before[picture].clone()
        expected[list(new)] = torch.where(state.forced[picture, list(new)], before[picture, list(new)], 3)
        assert torch.equal(state.tokens[picture], expected)


@everywhere
@every_way
@pytest.mark.parametrize("rule", ["sjd", "coupled"])
def test_every_draft_has_the_distribution_that_it_was_drawn_from(rule: str, way: str, places: tuple[int, int]) -> None:
    _, state, _ = moved(rule, way, places)
    target_probs = state.target_probs.clone()
    place_drafts(state, WIDTH)
    for picture, start in enumerate(places):
        for slot in range(WINDOW - 1):
            index, found = int(state.pos[picture]) + 1 + slot, state.draft_probs[picture, slot]
            if index <= start + WIDTH:
                assert torch.equal(found, target_probs[picture, index - start - 1])
            elif way == "guess":
                assert torch.equal(found, target_probs[picture, WIDTH - 1])
            elif way == "random":
                assert torch.equal(found, torch.full((CODES,), 1 / CODES))
            else:
                assert found.nonzero().tolist() == [[int(state.tokens[picture, index])]] and found.sum() == 1


@pytest.mark.parametrize("guided", [True, False])
@everywhere
def test_slots_are_embedded_for_every_branch_at_its_own_positions(places: tuple[int, int], guided: bool) -> None:
    state, slots, embedding, end_of_row, weight, eps = embed_window_sample("cpu", FP32, size=8, slots=9)
    rows = 4 if guided else 2
    state = replace(state, offset=state.offset[:rows])
    state.pos.copy_(torch.tensor(places).clamp_max(state.layout.last))
    x, normed, positions = embed_window(state, slots, embedding, end_of_row, weight, eps)
    for row, slot in itertools.product(range(rows), range(slots)):
        index = int(state.pos[row % 2]) + slot
        found = x[row * slots + slot]
        code = embedding[state.tokens[row % 2, index]]
        assert torch.equal(found, end_of_row if is_end_of_row(state, index) else code)
        expected = found / (found.square().mean() + eps).sqrt() * weight
        torch.testing.assert_close(normed[row * slots + slot], expected)
        assert int(positions[row, slot]) == index + int(state.offset[row])


@everywhere
@every_rule
def test_what_is_forced_is_known_with_certainty(rule: str, places: tuple[int, int]) -> None:
    logits, state, width = draw_window_sample("cpu", FP32, Sampling(CODES, rule, top_k=5), WIDTH)
    state.pos.copy_(torch.tensor(places))
    drawn = draw_window(logits, state, width)
    index = state.index(1, width)
    forced, known = state.forced.gather(1, index), state.tokens.gather(1, index)
    assert forced.any() and drawn.agree[forced].all()
    assert all(torch.equal(part[forced], known[forced]) for part in (drawn.tokens, drawn.fresh))


@pytest.mark.parametrize("cfg_scale", [3.0, 1.0])
@every_rule
def test_log_probabilities_are_among_all_codes_whatever_top_k(rule: str, cfg_scale: float) -> None:
    sampling = Sampling(CODES, rule, cfg_scale=cfg_scale, temperature=0.7, top_k=2)
    logits, state, width = draw_window_sample("cpu", FP32, sampling, 5, slots=8)
    drawn = draw_window(logits, state, width)
    guided = guide(*logits[:, :width].chunk(2), cfg_scale) if cfg_scale != 1 else logits[:, :width]
    expected = (guided / 0.7).log_softmax(-1).gather(-1, drawn.tokens[..., None])[..., 0]
    torch.testing.assert_close(drawn.log_probs, expected)


@pytest.mark.parametrize("top_k", [1, 4, CODES - 1, CODES, CODES + 1, 4096])
@pytest.mark.parametrize("rule", ["sjd", "coupled"])
def test_drafts_are_compared_with_the_softmax_of_the_k_largest(rule: str, top_k: int) -> None:
    """So are guesses drawn from it; a k of all codes, or of more, cuts nothing."""
    sampling = Sampling(CODES, rule, "guess", cfg_scale=1.0, temperature=0.7, top_k=top_k)
    logits, state, width = draw_window_sample("cpu", FP32, sampling, 5, slots=8)
    draw_window(logits, state, width)
    values = logits[:, :width] / 0.7
    rank = values.argsort(-1, descending=True).argsort(-1)
    cut = values.masked_fill(rank >= top_k, -torch.inf)
    torch.testing.assert_close(state.target_probs, cut.softmax(-1))
    torch.testing.assert_close(state.last_logits, cut[:, -1])


@every_rule
def test_what_is_drawn_is_of_the_cut_and_so_are_guesses(rule: str) -> None:
    """Its log-probability is among all codes."""
    sampling = Sampling(CODES, rule, "guess", cfg_scale=1.0, temperature=0.7, top_k=9, top_p=0.8, min_p=0.1)
    logits, state, width = draw_window_sample("cpu", FP32, sampling, 5, slots=8)
    drawn = draw_window(logits, state, width)
    values = logits[:, :width] / 0.7
    kept = cut(values, sampling)
    assert 1 < kept.isfinite().sum(-1).max() < 9
    torch.testing.assert_close(state.last_logits, kept[:, -1])
    if rule != "gumbel":
        torch.testing.assert_close(state.target_probs, kept.softmax(-1))
    forced = state.forced.gather(1, state.index(1, width))
    # A draft that the last forward's cut left may be kept only where this one's does too.
    assert kept.gather(-1, drawn.tokens[..., None])[~forced].isfinite().all()
    own = values.log_softmax(-1).gather(-1, drawn.tokens[..., None])[..., 0]
    torch.testing.assert_close(drawn.log_probs, own)


def test_a_forward_leaves_the_distributions_of_slots_that_it_does_not_run() -> None:
    state = window_sample("cpu", Sampling(CODES, "sjd"), 5)
    before = state.target_probs.clone()
    draw_window(torch.zeros(4, 3, CODES), state, 3)
    assert torch.equal(state.target_probs[:, 3:], before[:, 3:])
    torch.testing.assert_close(state.target_probs[:, :3], torch.full((2, 3, CODES), 1 / CODES))
