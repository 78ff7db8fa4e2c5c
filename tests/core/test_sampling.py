"""Accept rules and draws as equations; their laws are sums over evenly spread numbers, so that these are not chance."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lumina_core.decoding.settings import DecodeSettings
from lumina_core.kernels.noise import MAX_UNIFORM, MIN_UNIFORM, gumbel_noise, picture_keys, to_exponential
from lumina_core.kernels.reference import gumbel_draw, topk_cut
from lumina_core.kernels.sampling import accept, accept_length, couple, draw, guide, residual
from lumina_core.kernels.window_reference import cut
from lumina_core.kernels.window_state import Sampling

from .toys import cut as plain_cut

GRID = 400
UNIFORMS = (torch.arange(GRID) + 0.5) / GRID
# Points of a unit cube, and how far their shares of the events here are from the events' volumes, at most.
POINTS, OFF = 2**16, 1e-3

TARGET = torch.tensor([0.5, 0.3, 0.2, 0.0])
PAIRS = {
    "different": (TARGET, torch.tensor([0.1, 0.2, 0.3, 0.4])),
    "equal": (TARGET, TARGET),
    "equal but for rounding": (TARGET, TARGET.nextafter(torch.ones(4))),
    "draft certain": (TARGET, torch.tensor([0.0, 1.0, 0.0, 0.0])),
    "draft certain and impossible": (TARGET, torch.tensor([0.0, 0.0, 0.0, 1.0])),
    "target certain": (torch.tensor([0.0, 1.0, 0.0, 0.0]), TARGET),
    "both certain, the same": (torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])),
    "both certain, not the same": (torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])),
    "nothing in common": (torch.tensor([0.4, 0.6, 0.0, 0.0]), torch.tensor([0.0, 0.0, 0.7, 0.3])),
    "draft uniform": (TARGET, torch.full((4,), 0.25)),
    "one code": (torch.ones(1), torch.ones(1)),
}
pairs = pytest.mark.parametrize(("target_probs", "draft_probs"), PAIRS.values(), ids=PAIRS)


def slots(probs: Tensor, count: int) -> Tensor:
    """The same distribution in each of count slots of one picture."""
    return probs.expand(1, count, -1)


def spread(dimensions: int) -> Tensor:
    """Points [POINTS,dimensions] that fill the unit cube evenly (a Sobol sequence), the same in every run."""
    return torch.quasirandom.SobolEngine(dimensions).draw(POINTS) + 0.5 / POINTS


def exponential(uniform: Tensor) -> Tensor:
    return uniform.log().neg()


def law_of(tokens: Tensor, codes: int) -> Tensor:
    """How often each code came."""
    return tokens.flatten().bincount(minlength=codes) / tokens.numel()


def drafts_of(draft_probs: Tensor) -> list[int]:
    return draft_probs.nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("agree", "expected"),
    [([], 1), ([False], 1), ([True], 2), ([True, False, True], 2), ([False, True, True], 1), ([True, True, True], 4)],
)
def test_accepted_are_the_drafts_before_the_first_disagreement_and_one_more(agree: list[bool], expected: int) -> None:
    rows = torch.tensor([agree, agree], dtype=torch.bool)
    assert accept_length(rows).tolist() == [expected] * 2


@pairs
def test_a_draft_is_kept_with_probability_min_1_p_over_q(target_probs: Tensor, draft_probs: Tensor) -> None:
    for draft in drafts_of(draft_probs):
        drafts = torch.full((1, GRID), draft)
        kept = accept(slots(target_probs, GRID), slots(draft_probs, GRID), drafts, UNIFORMS[None])
        ratio = float(target_probs[draft] / draft_probs[draft])
        assert kept.float().mean().item() == pytest.approx(min(1, ratio), abs=1 / GRID)


@pytest.mark.parametrize("uniform", [MIN_UNIFORM, 0.5, MAX_UNIFORM])
def test_acceptance_is_certain_at_both_ends(uniform: float) -> None:
    probs, drafts, numbers = slots(TARGET, 3), torch.tensor([[0, 1, 2]]), torch.full((1, 3), uniform)
    assert accept(probs, probs, drafts, numbers).all()
    impossible = torch.tensor([0.0, 0.0, 0.0, 1.0])
    assert not accept(probs, slots(impossible, 3), torch.full((1, 3), 3), numbers).any()


def test_residual_is_what_p_has_over_q() -> None:
    target_probs, draft_probs = PAIRS["different"]
    torch.testing.assert_close(residual(target_probs, draft_probs), torch.tensor([0.4, 0.1, 0.0, 0.0]))


def test_residual_of_a_certain_draft_is_all_but_the_draft() -> None:
    assert torch.equal(residual(*PAIRS["draft certain"]), torch.tensor([0.5, 0.0, 0.2, 0.0]))


@pytest.mark.parametrize("name", ["equal", "both certain, the same", "one code", "equal but for rounding"])
def test_without_a_residual_the_target_takes_its_place(name: str) -> None:
    target_probs, draft_probs = PAIRS[name]
    assert torch.equal(residual(target_probs, draft_probs), target_probs)


def test_residual_is_of_each_slot_alone() -> None:
    target_probs, draft_probs = (torch.stack(both) for both in zip(PAIRS["equal"], PAIRS["different"], strict=True))
    expected = torch.stack([residual(*PAIRS["equal"]), residual(*PAIRS["different"])])
    assert torch.equal(residual(target_probs, draft_probs), expected)


@pairs
def test_coupling_has_the_target_law_and_keeps_as_much_as_can_be(target_probs: Tensor, draft_probs: Tensor) -> None:
    """Σ_d q(d) · law of the token given draft d, over all uniforms and noise, is p; P(keep) is 1 − TV(p, q)."""
    codes = len(target_probs)
    uniform, noise = spread(1 + codes)[None].split((1, codes), -1)
    law, keep = torch.zeros(codes), 0.0
    for draft in drafts_of(draft_probs):
        drafts = torch.full((1, POINTS), draft)
        probs = slots(target_probs, POINTS), slots(draft_probs, POINTS)
        tokens, kept = couple(*probs, drafts, uniform.squeeze(-1), exponential(noise))
        law += draft_probs[draft] * law_of(tokens, codes)
        keep += float(draft_probs[draft] * kept.float().mean())
        assert torch.equal(tokens == drafts, kept)
    torch.testing.assert_close(law, target_probs, atol=OFF, rtol=0)
    assert not law[target_probs == 0].any()
    assert keep == pytest.approx(1 - float((target_probs - draft_probs).abs().sum()) / 2, abs=OFF)


def test_a_rejected_draft_is_redrawn_by_the_noise_alone() -> None:
    """A number that rejected a draft is small or large as p and q are; it may have no part in what follows."""
    target_probs, draft_probs = (slots(probs, POINTS) for probs in PAIRS["different"])
    uniform, noise = spread(1 + 4)[None].split((1, 4), -1)
    drafts = torch.full((1, POINTS), 2)
    tokens, kept = couple(target_probs, draft_probs, drafts, uniform.squeeze(-1), exponential(noise))
    barely = uniform.squeeze(-1) < 0.8
    for part in (barely, ~barely):
        law = law_of(tokens[part & ~kept], 4)
        torch.testing.assert_close(law, torch.tensor([0.8, 0.2, 0.0, 0.0]), atol=5 * OFF, rtol=0)


@pytest.mark.parametrize("weights", [[0.2, 0.5, 0.3], [0.0, 2.0, 0.0, 6.0, 0.0], [7.0], [1e-30, 3e-30], [1e30, 3e30]])
def test_draws_have_the_law_of_the_weights(weights: list[float]) -> None:
    table = torch.tensor(weights)
    law = law_of(draw(table, exponential(spread(len(table)))), len(table))
    torch.testing.assert_close(law, table / table.sum(), atol=OFF, rtol=0)
    assert not law[table == 0].any()


def test_what_is_impossible_is_not_drawn_whatever_the_noise() -> None:
    weights, extremes = torch.tensor([0.0, 1e-30, 0.0, 1.0]), to_exponential(torch.tensor([0, -1]))
    every = torch.cartesian_prod(*[extremes] * 4)
    assert set(draw(weights, every).tolist()) <= {1, 3}


@pytest.mark.parametrize(("times", "expected"), [(0.999, 1), (1.001, 16_383)])
def test_draws_see_small_probabilities_in_a_large_codebook(times: float, expected: int) -> None:
    """Of exponential times E/w the first is drawn: one of weight 1e-9 where its E is 1e-9 of that of weight 1."""
    weights, uniform = torch.full((16_384,), 1e-9), torch.full((16_384,), 0.5, dtype=torch.float64)
    weights[-1] = 1.0
    uniform[1] = 1e-9 * math.log(2) * times
    times = to_exponential((uniform * 2.0**53).long() << 11)
    assert int(draw(weights, times)) == expected


def test_gumbel_draws_have_the_law_of_the_logits() -> None:
    logits = torch.tensor([0.0, -math.inf, 1.0, 2.0, 0.5])
    index = torch.arange(40_000)[None]
    for top_k in (5, 2):
        noise = gumbel_noise(picture_keys([7], "cpu"), index, len(logits))
        tokens = gumbel_draw(logits.expand(1, index.shape[1], -1), noise, top_k)
        law = tokens.flatten().bincount(minlength=5) / index.shape[1]
        expected = topk_cut(logits, top_k).softmax(-1)
        torch.testing.assert_close(law, expected, atol=0.01, rtol=0)
        assert not law[expected == 0].any()


@pytest.mark.parametrize("top_k", [1, 2, 7, 40, 64])
def test_gumbel_draws_are_of_the_k_likeliest_codes(top_k: int) -> None:
    """Also where the best of all is not among them, and where codes tie for the last place."""
    logits = torch.randn(50, 6, 64, generator=torch.Generator().manual_seed(top_k)).mul_(2).round_()
    keys, index = picture_keys(range(50), "cpu"), torch.arange(6).expand(50, -1)
    noise = gumbel_noise(keys, index, 64)
    expected = (topk_cut(logits, top_k) + noise).argmax(-1)
    assert torch.equal(gumbel_draw(logits, noise, top_k), expected)
    assert torch.equal(expected, (logits + noise).argmax(-1)) == (top_k == 64)


def test_cut_keeps_the_k_largest() -> None:
    logits = torch.tensor([[1.0, 4.0, 3.0, 2.0], [0.0, -1.0, -2.0, -3.0]])
    expected = torch.tensor([[-math.inf, 4.0, 3.0, -math.inf], [0.0, -1.0, -math.inf, -math.inf]])
    assert torch.equal(topk_cut(logits, 2), expected)


def test_ties_with_the_kth_stay() -> None:
    assert topk_cut(torch.tensor([1.0, 2.0, 2.0, 2.0, 3.0]), 2).isfinite().tolist() == [False, True, True, True, True]


def test_one_code_stays_one_code() -> None:
    assert torch.equal(topk_cut(torch.tensor([[3.0]]), 1).softmax(-1), torch.ones(1, 1))


def test_a_top_k_of_one_is_certain() -> None:
    probs = topk_cut(torch.tensor([0.1, 0.3, 0.2]), 1).softmax(-1)
    assert torch.equal(probs, torch.tensor([0.0, 1.0, 0.0]))


PROBS = torch.tensor([0.05, 0.4, 0.25, 0.1, 0.1, 0.1])


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ({"top_p": 0.3}, [1]),
        ({"top_p": 0.41}, [1, 2]),
        ({"top_p": 0.66}, [1, 2, 3, 4, 5]),
        ({"top_p": 0.96}, [0, 1, 2, 3, 4, 5]),
        ({"top_p": 1e-12}, [1]),
        ({"min_p": 0.2}, [1, 2, 3, 4, 5]),
        ({"min_p": 0.3}, [1, 2]),
        ({"min_p": 1.0}, [1]),
        ({"top_k": 2, "top_p": 0.6}, [1]),
        ({"top_k": 2, "top_p": 0.63}, [1, 2]),
        ({"top_p": 0.5, "min_p": 0.1}, [1, 2]),
        ({"top_p": 0.9, "min_p": 0.5}, [1, 2]),
        ({}, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_top_p_keeps_the_likeliest_that_reach_it_and_min_p_a_share_of_the_likeliest(
    asked: dict[str, float], kept: list[int]
) -> None:
    """Top-p among those that top-k leaves; codes that tie for the last place stay."""
    logits = PROBS.log() + 7
    found = cut(logits, Sampling(len(PROBS), **asked))
    assert found.isfinite().nonzero().flatten().tolist() == kept
    assert torch.equal(found[kept], logits[kept])


@pytest.mark.parametrize("top_p", [0.001, 0.2, 0.9, 0.999, 1.0])
@pytest.mark.parametrize(("top_k", "min_p", "scale"), [(4096, 0.0, 1), (60, 0.02, 2), (4096, 0.1, 3), (7, 0.0, 30)])
def test_the_cut_is_that_of_sorted_probabilities(top_p: float, top_k: int, min_p: float, scale: int) -> None:
    logits = torch.randn(40, 300, generator=torch.Generator().manual_seed(0)) * scale
    asked = {"top_k": top_k, "top_p": top_p, "min_p": min_p}
    found, expected = cut(logits, Sampling(300, **asked)), plain_cut(logits.double(), DecodeSettings(**asked))
    assert torch.equal(found.isfinite(), expected.isfinite()) and found.isfinite().any(-1).all()
    assert torch.equal(found[found.isfinite()], logits[found.isfinite()])


def test_the_cut_is_the_same_in_any_order_of_the_codes() -> None:
    """The sum is of integers."""
    logits = torch.randn(200, 16_384, generator=torch.Generator().manual_seed(1))[:20]
    order = torch.randperm(16_384, generator=torch.Generator().manual_seed(2))
    sampling = Sampling(16_384, top_k=16_384, top_p=0.95)
    assert torch.equal(cut(logits, sampling)[:, order], cut(logits[:, order], sampling))


def test_codes_that_are_sure_are_kept_alone() -> None:
    logits = torch.tensor([-math.inf, 0.0, -200.0, 88.0])
    for asked in ({"top_p": 0.999}, {"min_p": 1e-9}):
        assert cut(logits, Sampling(4, **asked)).isfinite().tolist() == [False, False, False, True]


def test_guidance_is_in_float32() -> None:
    cond, uncond = (torch.randn(50, generator=torch.Generator().manual_seed(k)).bfloat16() for k in range(2))
    for cfg_scale in (0.0, 1.0, 4.0):
        expected = uncond.double() + cfg_scale * (cond.double() - uncond.double())
        guided = guide(cond, uncond, cfg_scale)
        assert guided.dtype == torch.float32
        torch.testing.assert_close(guided.double(), expected, atol=1e-5, rtol=0)
