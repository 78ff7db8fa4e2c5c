"""Given codes anywhere: they stay, every decoder draws the others as one by one, and their likelihood is counted."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lumina_core.decoding.loop import decode
from lumina_core.decoding.request import Request
from lumina_core.decoding.settings import DECODERS, DecodeResult, DecodeSettings, StepReport
from lumina_core.errors import InputError
from lumina_core.model.transformer import Transformer

from .toys import Toy, toy_transformer

CODES, GRID_H, GRID_W = 64, 8, 4
PROMPTS = ((20, 21, 22, 4), (23, 4))
GRID = torch.randint(0, CODES, (GRID_H, GRID_W), generator=torch.Generator().manual_seed(1))
# A hole in rows 2 to 4, whose first code is not the first of its row, and one code of row 6.
HOLE = torch.tensor([[0] * 4, [0] * 4, [0, 1, 1, 0], [1, 1, 1, 0], [0, 1, 0, 1], [0] * 4, [0, 0, 1, 0], [0] * 4]).bool()
SETTINGS = DecodeSettings(cfg_scale=3.0, top_k=20, temperature=0.7, seed=5)
WINDOWS = (2, 5, 16)


@pytest.fixture(scope="module")
def transformer() -> Transformer:
    return toy_transformer(CODES, hidden=32, spread=2.0)


def drawn(
    transformer: Transformer, mask: Tensor | None = HOLE, given: Tensor | None = GRID, score: bool = False, **settings
) -> DecodeResult:
    toy = Toy(transformer, GRID_H, GRID_W, PROMPTS, GRID)
    asked = replace(SETTINGS, **settings)
    request = Request(PROMPTS, GRID_H, GRID_W, given, asked, mask=mask, score_given=score)
    return decode(transformer, toy.vocabulary, request)


@pytest.mark.parametrize("decoder", DECODERS)
def test_given_codes_stay_and_the_others_are_drawn(transformer: Transformer, decoder: str) -> None:
    result = drawn(transformer, decoder=decoder, window_size=5)
    assert torch.equal(result.codes[:, ~HOLE], GRID[~HOLE].expand(2, -1))
    assert torch.equal(result.accept_step >= 0, HOLE.expand(2, -1, -1))
    assert result.sampled_tokens == 2 * int(HOLE.sum())
    assert not torch.equal(result.codes[0][HOLE], result.codes[1][HOLE])


@pytest.mark.parametrize(("window", "tree"), [*((window, 0) for window in WINDOWS), (5, 8), (16, 24)])
@pytest.mark.parametrize("score", [False, True])
def test_gumbel_draws_what_ar_draws(transformer: Transformer, window: int, tree: int, score: bool) -> None:
    one_by_one = drawn(transformer, decoder="ar", score=score)
    result = drawn(transformer, window_size=window, tree=tree, score=score)
    assert torch.equal(result.codes, one_by_one.codes)
    assert result.nfe < one_by_one.nfe


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_mask_below_whole_rows_is_given_rows(transformer: Transformer, decoder: str) -> None:
    below = torch.arange(GRID_H)[:, None].expand(-1, GRID_W) >= 3
    masked, rows = (drawn(transformer, mask, GRID[:end], decoder=decoder) for mask, end in ((below, None), (None, 3)))
    assert torch.equal(masked.codes, rows.codes) and masked.accept_lengths == rows.accept_lengths


def test_a_full_mask_draws_a_whole_picture(transformer: Transformer) -> None:
    whole = drawn(transformer, torch.ones(GRID_H, GRID_W).bool())
    assert torch.equal(whole.codes, drawn(transformer, None, None).codes)


def test_every_picture_may_have_its_own_mask_and_codes(transformer: Transformer) -> None:
    masks, grids = torch.stack((HOLE, HOLE.flip(0))), torch.stack((GRID, GRID.flip(1)))
    both = drawn(transformer, masks, grids, score=True)
    toy = Toy(transformer, GRID_H, GRID_W, PROMPTS, GRID)
    for k, (prompt, mask, grid) in enumerate(zip(PROMPTS, masks, grids, strict=True)):
        settings = replace(SETTINGS, seed=SETTINGS.seed + k)
        request = Request([prompt], GRID_H, GRID_W, grid, settings, mask=mask, score_given=True)
        alone = decode(transformer, toy.vocabulary, request)
        assert torch.equal(alone.codes[0], both.codes[k])
        assert alone.given_log_likelihood == pytest.approx(both.given_log_likelihood[k : k + 1], abs=1e-4)


def test_the_run_ends_with_the_last_drawn_code_unless_given_ones_are_scored(transformer: Transformer) -> None:
    first, scored = (drawn(transformer, decoder="ar", score=score) for score in (False, True))
    last = 6 * (GRID_W + 1) + 2
    assert (first.nfe, scored.nfe) == (last - 2 * (GRID_W + 1), GRID_H * (GRID_W + 1) - 2 - 2 * (GRID_W + 1))
    assert torch.equal(first.codes, scored.codes) and first.given_log_likelihood is None
    assert first.log_likelihood == pytest.approx(scored.log_likelihood, abs=1e-4)


@pytest.mark.parametrize("decoder", DECODERS)
def test_likelihoods_are_those_of_one_plain_pass(transformer: Transformer, decoder: str) -> None:
    result = drawn(transformer, decoder=decoder, window_size=5, score=True)
    toy = Toy(transformer, GRID_H, GRID_W, PROMPTS, GRID[:2])
    after = (~HOLE.flatten() & (HOLE.flatten().cumsum(0) > 0))[2 * GRID_W :]
    for k, prompt in enumerate(PROMPTS):
        line = result.codes[k, 2:].reshape(1, -1)
        log_probs = toy.log_probs(line, replace(SETTINGS, top_k=CODES), prompt).gather(-1, line[..., None]).flatten()
        assert result.given_log_likelihood[k] == pytest.approx(float(log_probs[after].sum()), abs=3e-4)
        assert result.log_likelihood[k] == pytest.approx(float(log_probs[toy_drawn()].sum()), abs=3e-4)


def toy_drawn() -> Tensor:
    return HOLE.flatten()[2 * GRID_W :]


def test_nothing_is_scored_where_nothing_is_given_after_the_hole(transformer: Transformer) -> None:
    below = torch.arange(GRID_H)[:, None].expand(-1, GRID_W) >= 3
    assert drawn(transformer, below, score=True).given_log_likelihood is None


def test_progress_counts_drawn_codes_and_the_rows_behind_them(transformer: Transformer) -> None:
    reports: list[StepReport] = []
    request = Request(PROMPTS, GRID_H, GRID_W, GRID, replace(SETTINGS, window_size=5), mask=HOLE)
    decode(transformer, Toy(transformer, GRID_H, GRID_W, PROMPTS, GRID).vocabulary, request, reports.append)
    assert reports[-1].accepted == (int(HOLE.sum()),) * 2 == (reports[-1].total,) * 2 and reports[-1].rows >= 6
    for report in reports:
        before = [int(HOLE.flatten()[:count].sum()) for count in report.reached]
        assert list(report.accepted) == before and report.rows == min(report.reached) // GRID_W >= 2


def test_the_effective_sample_size_is_that_of_importance_weights() -> None:
    empty = torch.zeros(4, 1, 1, dtype=torch.int64)
    result = DecodeResult(empty, 0, ((),) * 4, empty, (0.0,) * 4, 0.0)
    assert result.effective_sample_size is None
    for nats, expected in (((-900.0,) * 4, 4), ((-900.0, -1000.0, -1000.0, -1000.0), 1)):
        assert replace(result, given_log_likelihood=nats).effective_sample_size == pytest.approx(expected)
    weights = (0.5, 0.25, 0.125, 0.125)
    found = replace(result, given_log_likelihood=tuple(math.log(one) - 700 for one in weights)).effective_sample_size
    assert found == pytest.approx(1 / sum(one**2 for one in weights))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mask": HOLE & False}, "mask is empty"),
        ({"mask": torch.stack((HOLE, HOLE & False))}, "mask is empty"),
        ({"mask": HOLE[:4]}, r"shape \(4, 4\); expected torch.bool of \[8,4\]"),
        ({"mask": HOLE.float()}, "mask is torch.float32"),
        ({"mask": HOLE.expand(3, -1, -1)}, "3 masks came for 2 pictures"),
        ({"given": GRID[:4]}, r"expected \[8,4\], the whole picture"),
        ({"given": None}, r"expected \[8,4\], the whole picture"),
        ({"given": GRID + 1}, "codes run from 0 to 64"),
    ],
)
def test_bad_masks_are_refused(transformer: Transformer, changes: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        drawn(transformer, **changes)
