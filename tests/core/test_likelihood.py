"""The log-likelihood that decoding counts is that of one plain pass over the finished picture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lumina_core.decoding.settings import DECODERS, NEW_DRAFTS, DecodeResult, DecodeSettings

from .toys import Toy, toy_transformer

CODES, GRID_H, GRID_W = 64, 12, 4
PROMPTS = ((20, 21, 22, 4), (23, 4), (24, 25, 26, 27, 28, 29, 4))
GIVEN = torch.randint(0, CODES, (5, GRID_W), generator=torch.Generator().manual_seed(1))
SETTINGS = DecodeSettings(top_k=40, temperature=0.9, seed=5)
WINDOWS = (1, 7, 32)


def toy_of(given_rows: int) -> Toy:
    return Toy(toy_transformer(CODES, hidden=32, spread=2.0), GRID_H, GRID_W, PROMPTS, GIVEN[:given_rows])


def teacher_forced(toy: Toy, result: DecodeResult) -> Tensor:
    """Nats [N] of the pictures by `Transformer.forward` in float64, the given rows left out, over all codes."""
    settings = replace(result.settings, top_k=CODES)
    sums = []
    for codes, prompt in zip(result.codes, toy.prompts, strict=True):
        drawn = codes[len(toy.given_codes) :].reshape(1, -1)
        log_probs = toy.log_probs(drawn, settings, prompt)
        sums.append(log_probs.gather(-1, drawn[..., None]).sum())
    return torch.stack(sums)


@pytest.mark.parametrize("given_rows", [0, 1, 5])
@pytest.mark.parametrize("cfg_scale", [1.0, 4.0])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_equals_one_plain_pass(decoder: str, window: int, cfg_scale: float, given_rows: int) -> None:
    toy, way = toy_of(given_rows), NEW_DRAFTS[WINDOWS.index(window)]
    settings = replace(SETTINGS, decoder=decoder, window_size=window, cfg_scale=cfg_scale, new_drafts=way)
    result = toy.decode(settings, len(PROMPTS))
    assert window == 1 or decoder == "ar" or result.nfe < toy.canvas.tokens_left - 1
    torch.testing.assert_close(
        torch.tensor(result.log_likelihood, dtype=torch.float64), teacher_forced(toy, result), atol=3e-4, rtol=0
    )


def test_codes_that_were_sure_count_nothing() -> None:
    result = toy_of(1).decode(replace(SETTINGS, temperature=1e-3), 2)
    assert result.log_likelihood == pytest.approx((0.0, 0.0), abs=1e-3)


def test_by_code_is_a_mean_over_what_was_drawn() -> None:
    """At temperature 100 every code is about as likely as any other, on every canvas."""
    settings = replace(SETTINGS, cfg_scale=1.0, temperature=100.0, top_k=CODES)
    for given_rows in (0, 5):
        toy = toy_of(given_rows)
        result = toy.decode(settings, len(PROMPTS))
        expected = torch.full((len(PROMPTS),), -torch.tensor(CODES).log().item())
        torch.testing.assert_close(torch.tensor(result.log_likelihood_per_code), expected, atol=0.1, rtol=0)
        assert result.log_likelihood[0] == pytest.approx(
            result.log_likelihood_per_code[0] * int(toy.drawn.sum()), rel=1e-12
        )
