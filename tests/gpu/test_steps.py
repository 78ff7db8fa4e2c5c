"""Captured steps draw what steps one by one draw, and kernels what their references draw, on a GPU."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from lumina_core.decoding.settings import DECODERS, NEW_DRAFTS, DecodeResult
from lumina_core.lora.applied import AppliedLora
from lumina_core.lora.file import Lora, LowRank
from lumina_core.model.run_kernels import RunKernels
from lumina_core.model.transformer import Transformer
from lumina_core.pipeline import Lumina

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

PROMPT, SIZE = "a red circle left of a blue square", (96, 96)


def drawn(compile_choice: str, dtype: torch.dtype, weights: str = "auto", **settings: Any) -> DecodeResult:
    """Three pictures; the width of the window, which may follow the clock, is fixed."""
    lumina = Lumina.load("demo", dtype=dtype, device="cuda", compile=compile_choice, weights=weights)
    settings = {"adapt_window": False, **settings}
    return lumina.draw(PROMPT, *SIZE, batch=3, seed=3, **settings).result


@pytest.mark.parametrize("kv_cache", ["auto", "int8", "int4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("decoder", DECODERS)
def test_captured_steps_draw_the_same(
    decoder: str, dtype: torch.dtype, kv_cache: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = drawn("off", dtype, decoder=decoder, kv_cache=kv_cache)
    with caplog.at_level(logging.WARNING):
        captured = drawn("auto", dtype, decoder=decoder, kv_cache=kv_cache)
    assert not caplog.records, caplog.text
    assert torch.equal(plain.codes, captured.codes) and plain.accept_lengths == captured.accept_lengths
    assert captured.warm_up_seconds > 0


@pytest.mark.parametrize("kv_cache", ["auto", "int8", "int4"])
@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_quantised_weights_draw_the_same_picture_at_every_width(weights: str, kv_cache: str) -> None:
    """So that a width that follows the clock cannot change it: every kernel rounds a row alike."""
    widest = {"window_size": 32, "adapt_window": True, "weights": weights, "kv_cache": kv_cache}
    pictures = [drawn("auto", torch.bfloat16, **{**widest, **one}) for one in ({}, {}, {"adapt_window": False})]
    assert torch.equal(pictures[0].codes, pictures[1].codes) and torch.equal(pictures[0].codes, pictures[2].codes)


@pytest.mark.parametrize("weights", ["bf16", "fp16", "int4", "int8"])
def test_captured_steps_with_a_lora_draw_the_same(weights: str, caplog: pytest.LogCaptureFixture) -> None:
    """And hold it: a run with it, one without, and one with it again."""
    generator = torch.Generator().manual_seed(0)
    pair = [torch.randn(*shape, generator=generator) for shape in ((3, 256), (256, 3))]
    matrices = {
        (layer, name): LowRank(pair[0] / 16, pair[1], 1.0) for layer in range(6) for name in ("v_proj", "o_proj")
    }
    lora = AppliedLora(Lora(Path("random"), matrices, ""), 2.0)
    codes = {}
    for choice in ("off", "auto"):
        lumina = Lumina.load("demo", device="cuda", compile=choice, weights=weights)
        models = lumina.with_loras(lora), lumina, lumina.with_loras(lora)
        asked = {"batch": 3, "seed": 3, "adapt_window": False}
        codes[choice] = [one.draw(PROMPT, *SIZE, **asked).codes for one in models]
    assert not caplog.records, caplog.text
    assert all(torch.equal(*pair) for pair in zip(codes["off"], codes["auto"], strict=True))
    assert torch.equal(codes["auto"][0], codes["auto"][2]) and not torch.equal(codes["auto"][0], codes["auto"][1])


@pytest.mark.parametrize("new_drafts", NEW_DRAFTS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_window_by_kernels_draws_what_the_references_draw(
    decoder: str, new_drafts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32, where a forward is the same, and the kernels that move the window are all that differs."""
    asked = {"decoder": decoder, "new_drafts": new_drafts}
    found = drawn("off", torch.float32, **asked)
    monkeypatch.setattr(Transformer, "choose_kernels", lambda *_: RunKernels())
    expected = drawn("off", torch.float32, **asked)
    assert torch.equal(found.codes, expected.codes) and found.accept_lengths == expected.accept_lengths
