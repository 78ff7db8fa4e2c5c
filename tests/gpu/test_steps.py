"""Captured steps draw what steps one by one draw, on a GPU."""

from __future__ import annotations

import logging

import pytest
import torch

from lumina_core import load_tokenizer, load_transformer
from lumina_core.checkpoint.find import find_checkpoint
from lumina_core.decoding.settings import DECODERS, DecodeResult, DecodeSettings
from lumina_core.model.compile import set_compile
from lumina_core.pipeline import Request, draw
from lumina_core.tokens.prompts import build_prompt
from lumina_core.tokens.vocabulary import Vocabulary

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def drawn(compile_choice: str, decoder: str, dtype: torch.dtype, kv_cache: str = "auto") -> DecodeResult:
    transformer = set_compile(load_transformer("demo", dtype=dtype, device="cuda"), compile_choice)
    tokenizer = load_tokenizer(find_checkpoint("demo").tokenizer)
    vocabulary = Vocabulary.of(tokenizer, transformer.config)
    prompt = tokenizer.encode_prompt(build_prompt("t2i", 64, 64, "a red circle left of a blue square"))
    settings = DecodeSettings(decoder=decoder, seed=3, kv_cache=kv_cache)
    return draw(transformer, vocabulary, Request([prompt] * 3, 8, 8, None, settings))


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
