"""Accept rules and draws as equations; laws are sums over grids of uniforms, so that nothing here is chance."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lumina_core.decoding.rules import SpeculativeRule
from lumina_core.decoding.sampling import accept, accept_length, couple, guide, residual, sample_inverse
from lumina_core.kernels.noise import gumbel_noise, picture_keys
from lumina_core.kernels.reference import gumbel_draw, topk_cut
from lumina_core.model.run_kernels import RunKernels

GRID = 400
UNIFORMS = (torch.arange(GRID) + 0.5) / GRID
SMALLEST, LARGEST = 2.0**-54, 1 - 2.0**-24

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


@pytest.mark.parametrize("uniform", [SMALLEST, 0.5, LARGEST])
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
    """Σ_d q(d) · law of the token given draft d, over all uniforms, is p; P(keep) is 1 − TV(p, q)."""
    uniform, again = torch.meshgrid(UNIFORMS, UNIFORMS, indexing="ij")
    uniform, again = uniform.reshape(1, -1), again.reshape(1, -1)
    law, keep = torch.zeros(len(target_probs)), 0.0
    for draft in drafts_of(draft_probs):
        drafts, count = torch.full_like(uniform, draft, dtype=torch.int64), uniform.numel()
        tokens, kept = couple(slots(target_probs, count), slots(draft_probs, count), drafts, uniform, again)
        law += draft_probs[draft] * tokens.flatten().bincount(minlength=len(law)) / count
        keep += float(draft_probs[draft] * kept.float().mean())
        assert torch.equal(tokens == drafts, kept)
    torch.testing.assert_close(law, target_probs, atol=3 / GRID, rtol=0)
    assert keep == pytest.approx(1 - float((target_probs - draft_probs).abs().sum()) / 2, abs=2 / GRID)


@pytest.mark.parametrize("weights", [[0.2, 0.5, 0.3], [0.0, 2.0, 0.0, 6.0, 0.0], [7.0], [1e-30, 3e-30], [1e30, 1e30]])
def test_inverse_sampling_has_the_law_of_the_weights(weights: list[float]) -> None:
    table = torch.tensor(weights)
    tokens = sample_inverse(table.expand(GRID, -1), UNIFORMS)
    law = tokens.bincount(minlength=len(table)) / GRID
    torch.testing.assert_close(law, table / table.sum(), atol=1 / GRID, rtol=0)
    assert not law[table == 0].any()


def test_inverse_sampling_reaches_both_ends_and_no_further() -> None:
    weights = torch.tensor([0.0, 0.25, 0.5, 0.25, 0.0]).expand(2, -1)
    assert sample_inverse(weights, torch.tensor([SMALLEST, LARGEST])).tolist() == [1, 3]


def test_inverse_sampling_sees_small_probabilities_in_a_large_codebook() -> None:
    weights = torch.full((16_384,), 1e-9)
    weights[-1] = 1.0
    assert sample_inverse(weights, torch.tensor(1e-9)) == 1
    assert sample_inverse(weights, torch.tensor(0.5)) == 16_383


def test_gumbel_draws_have_the_law_of_the_logits() -> None:
    logits = torch.tensor([0.0, -math.inf, 1.0, 2.0, 0.5])
    index = torch.arange(40_000)[None]
    for top_k in (5, 2):
        tokens = gumbel_draw(logits.expand(1, index.shape[1], -1), picture_keys([7], "cpu"), index, top_k)
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
    assert torch.equal(gumbel_draw(logits, keys, index, top_k), expected)
    assert torch.equal(expected, (logits + noise).argmax(-1)) == (top_k == 64)


def test_cut_keeps_the_k_largest() -> None:
    logits = torch.tensor([[1.0, 4.0, 3.0, 2.0], [0.0, -1.0, -2.0, -3.0]])
    expected = torch.tensor([[-math.inf, 4.0, 3.0, -math.inf], [0.0, -1.0, -math.inf, -math.inf]])
    assert torch.equal(topk_cut(logits, 2), expected)


def test_ties_with_the_kth_stay() -> None:
    assert topk_cut(torch.tensor([1.0, 2.0, 2.0, 2.0, 3.0]), 2).isfinite().tolist() == [False, True, True, True, True]


@pytest.mark.parametrize("top_k", [4, 5, 4096])
def test_top_k_of_all_cuts_nothing(top_k: int) -> None:
    logits = torch.randn(3, 4)
    assert torch.equal(SpeculativeRule(False, torch.zeros(3, 0, 4), top_k, RunKernels()).prepare(logits), logits)


def test_one_code_stays_one_code() -> None:
    assert torch.equal(topk_cut(torch.tensor([[3.0]]), 1).softmax(-1), torch.ones(1, 1))


def test_a_top_k_of_one_is_certain() -> None:
    probs = topk_cut(torch.tensor([0.1, 0.3, 0.2]), 1).softmax(-1)
    assert torch.equal(probs, torch.tensor([0.0, 1.0, 0.0]))


def test_guidance_is_in_float32() -> None:
    cond, uncond = (torch.randn(50, generator=torch.Generator().manual_seed(k)).bfloat16() for k in range(2))
    for cfg_scale in (0.0, 1.0, 4.0):
        expected = uncond.double() + cfg_scale * (cond.double() - uncond.double())
        guided = guide(cond, uncond, cfg_scale)
        assert guided.dtype == torch.float32
        torch.testing.assert_close(guided.double(), expected, atol=1e-5, rtol=0)
