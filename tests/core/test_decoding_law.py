"""Every decoder draws from the autoregressive law, by chi-square on all outcomes; known slips fail the same check."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lumina_core.decoding import loop, rules, sampling
from lumina_core.decoding import window as window_module
from lumina_core.decoding.rules import GumbelRule, Rule, Slots, SpeculativeRule
from lumina_core.decoding.settings import DecodeSettings
from lumina_core.decoding.window import Drafts, NewDrafts
from lumina_core.kernels.reference import topk_cut

from .toys import Toy, fit, toy_transformer

WAYS = ("above", "left", "random", "guess")
WINDOWS = (2, 3, 5, 8)
# Pictures of 3 rows of 2 codes below a given row, 8 tokens; 3 of 4 codes are possible at each: 729 outcomes.
GUIDED = DecodeSettings(cfg_scale=2.0, top_k=3, temperature=0.5)
# Pictures of 4 rows of 2 codes, 11 tokens, all of 3 codes possible: 6561 outcomes for each of two prompts in a batch.
LONG = DecodeSettings(cfg_scale=1.0, top_k=3)
TWO_PROMPTS = ((20, 4), (22, 23, 24, 4))
PICTURES = 4000

CASES = [
    *itertools.product(("sjd", "coupled"), WINDOWS, WAYS),
    *zip(("gumbel",) * 4, WINDOWS, WAYS, strict=True),
    *((decoder, 1, "above") for decoder in ("ar", "sjd", "coupled")),
]
LONG_CASES = [*itertools.product(("sjd", "coupled"), (5, 11), ("above", "guess"))]
# The chance that a right engine fails anywhere here is at most 1e-4, were the seeds drawn anew (Bonferroni). A slip has
# to fall below the same threshold.
THRESHOLD = 1e-4 / (len(CASES) + len(LONG_CASES))

Patch = pytest.MonkeyPatch


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


def p_value(toy: Toy, law: Tensor, settings: DecodeSettings) -> float:
    return fit(toy.counts(toy.decode(settings, PICTURES)), law)


def of(settings: DecodeSettings, decoder: str, width: int, way: str, seed: int = 0) -> DecodeSettings:
    return replace(settings, decoder=decoder, window_size=width, new_drafts=way, seed=seed)


@pytest.mark.parametrize(("decoder", "width", "way"), CASES)
def test_law(guided: tuple[Toy, Tensor], decoder: str, width: int, way: str) -> None:
    seed = PICTURES * CASES.index((decoder, width, way))
    assert p_value(*guided, of(GUIDED, decoder, width, way, seed)) > THRESHOLD


@pytest.mark.parametrize(("decoder", "width", "way"), LONG_CASES)
def test_law_over_many_steps(long: tuple[Toy, Tensor], decoder: str, width: int, way: str) -> None:
    seed = PICTURES * LONG_CASES.index((decoder, width, way))
    assert p_value(*long, of(LONG, decoder, width, way, seed)) > THRESHOLD


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
    """The number that rejected the draft also redraws it."""
    patch.setattr(rules, "REDRAW", rules.ACCEPT)


def same_uniform_in_all_steps(patch: Patch) -> None:
    """A position has the same numbers in every forward."""
    uniform = Slots.uniform
    patch.setattr(Slots, "uniform", lambda slots, stream: uniform(replace(slots, step=slots.step * 0), stream))


def misname_new_drafts(patch: Patch) -> None:
    """Copied codes count as drawn uniformly."""
    make = NewDrafts.make

    def misnamed(new: NewDrafts, way: str, rule: Rule) -> Drafts:
        drafts, probs = make(new, way, rule)
        return drafts, lambda: torch.full_like(probs(), 1 / probs().shape[-1])

    patch.setattr(NewDrafts, "make", misnamed)


def guide_later(patch: Patch) -> None:
    """No guidance in the first two forwards."""
    forwards = itertools.count()

    def late(cond: Tensor, uncond: Tensor, cfg_scale: float) -> Tensor:
        return sampling.guide(cond, uncond, cfg_scale if next(forwards) > 1 else 1.0)

    patch.setattr(window_module, "guide", late)


class StaleDraftProbs(SpeculativeRule):
    """A draft that is kept keeps its old q."""

    kept: Tensor | None = None

    def accept(self, logits: Tensor, drafts: Tensor, slots: Slots) -> tuple[Tensor, Tensor]:
        tokens, accepted = super().accept(logits, drafts, slots)
        self.kept = (tokens[:, :-1] == drafts).unsqueeze(-1)
        return tokens, accepted

    def commit(self, logits: Tensor, accepted: Tensor, new_draft_probs: Callable[[], Tensor]) -> None:
        if self.kept is not None:
            stale = torch.where(
                self.kept, self.draft_probs[:, : self.kept.shape[1]].log(), logits[:, :-1].log_softmax(-1)
            )
            logits = torch.cat((stale, logits[:, -1:]), 1)
        super().commit(logits, accepted, new_draft_probs)


class WrongBonus(SpeculativeRule):
    """The token after a window that is accepted whole comes from the last p but one."""

    def accept(self, logits: Tensor, drafts: Tensor, slots: Slots) -> tuple[Tensor, Tensor]:
        tokens, accepted = super().accept(logits, drafts, slots)
        wrong, _ = super().accept(torch.cat((logits[:, :-1], logits[:, -2:-1]), 1), drafts, slots)
        return torch.where((accepted == tokens.shape[1])[:, None], wrong, tokens), accepted


class NoiseOfSlot(GumbelRule):
    """Gumbel noise that stays with the slot while the window moves."""

    def draw(self, logits: Tensor, slots: Slots) -> Tensor:
        return super().draw(logits, replace(slots, index=slots.index - slots.index[:, :1]))


def rule(cls: type) -> Callable[[Patch], None]:
    """The engine with another rule."""

    def patched(patch: Patch) -> None:
        def make(decoder: str, draft_probs: Tensor, *others: object) -> object:
            return cls(*others) if issubclass(cls, GumbelRule) else cls(decoder == "coupled", draft_probs, *others)

        patch.setattr(window_module, "make_rule", make)

    patched.__name__ = cls.__name__
    return patched


SLIPS = [
    *itertools.product([drop_residual, warp_again, reuse_uniform], ["sjd", "coupled"], [5], ["guess"]),
    *itertools.product([misname_new_drafts, guide_later], ["sjd", "coupled"], [5], ["above"]),
    (guide_later, "gumbel", 5, "above"),
    (guide_later, "ar", 1, "above"),
    (rule(StaleDraftProbs), "coupled", 8, "guess"),
    (same_uniform_in_all_steps, "coupled", 8, "guess"),
    *((rule(WrongBonus), decoder, 2, "guess") for decoder in ("sjd", "coupled")),
    (rule(NoiseOfSlot), "gumbel", 5, "above"),
]


@pytest.mark.parametrize(("slip", "decoder", "width", "way"), SLIPS)
def test_slip_is_caught(
    guided: tuple[Toy, Tensor], slip: Callable, decoder: str, width: int, way: str, monkeypatch: Patch
) -> None:
    slip(monkeypatch)
    assert p_value(*guided, of(GUIDED, decoder, width, way)) < THRESHOLD
