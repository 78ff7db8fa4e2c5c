"""Captured steps draw what steps one by one draw, on a GPU."""

from __future__ import annotations

import logging

import pytest
import torch

from lumina_core.decoding.settings import DECODERS, DecodeResult
from lumina_core.pipeline import Lumina

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def drawn(compile_choice: str, decoder: str, dtype: torch.dtype, kv_cache: str = "auto") -> DecodeResult:
    lumina = Lumina.load("demo", dtype=dtype, device="cuda", compile=compile_choice)
    prompt, settings = "a red circle left of a blue square", {"decoder": decoder, "kv_cache": kv_cache}
    return lumina.draw(prompt, 64, 64, batch=3, seed=3, **settings).result


@pytest.mark.parametrize("kv_cache", ["auto", "int8", "int4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("decoder", DECODERS)
def test_captured_steps_draw_the_same(
    decoder: str, dtype: torch.dtype, kv_cache: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = drawn("off", decoder, dtype, kv_cache)
    with caplog.at_level(logging.WARNING):
        captured = drawn("auto", decoder, dtype, kv_cache)
    assert not caplog.records, caplog.text
    assert torch.equal(plain.codes, captured.codes) and plain.accept_lengths == captured.accept_lengths
    assert captured.warm_up_seconds > 0


def test_compiled_blocks_draw_the_same_in_float32() -> None:
    plain, compiled = drawn("off", "gumbel", torch.float32), drawn("on", "gumbel", torch.float32)
    assert torch.equal(plain.codes, compiled.codes)
