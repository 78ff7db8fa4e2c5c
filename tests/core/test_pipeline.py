"""Requests are checked before any work."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.checkpoint.find import load_tokenizer
from lumina_core.decoding.settings import DecodeResult
from lumina_core.errors import Cancelled, InputError
from lumina_core.model.load import load_transformer
from lumina_core.model.transformer import Transformer
from lumina_core.pipeline import DecodeSettings, Request, StepReport, check_request, draw
from lumina_core.tokens.vocabulary import Vocabulary

PROMPT = tuple(range(40))
SETTINGS = DecodeSettings(window_size=8, seed=3)
REQUEST = Request([PROMPT], 4, 4, settings=SETTINGS)
PUBLISHED = {
    "vocab_size": 171_385,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 10_240,
}


@pytest.fixture(scope="module")
def transformer(checkpoint: Path) -> Transformer:
    return load_transformer(checkpoint, dtype=torch.float32)


@pytest.fixture(scope="module")
def vocabulary(checkpoint: Path, transformer: Transformer) -> Vocabulary:
    return Vocabulary.of(load_tokenizer(checkpoint), transformer.config)


@pytest.fixture(scope="module")
def published() -> TransformerConfig:
    return TransformerConfig.from_dict(PUBLISHED)


@pytest.fixture(scope="module")
def published_vocabulary() -> Vocabulary:
    return Vocabulary(1, 2, 3, 4, tuple(range(5, 134)), 155_000, 16_384)


def canvas(width: int, height: int, prompt: int = 64) -> Request:
    return Request([[0] * prompt], height // 8, width // 8)


# What cannot be drawn


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (replace(REQUEST, prompts=[]), "no prompt came"),
        (replace(REQUEST, grid_h=6), "the size is 32x48; expected positive multiples of 32"),
        (replace(REQUEST, grid_w=0), "the size is 0x32; expected positive multiples of 32"),
        (replace(REQUEST, grid_w=-4), "the size is -32x32; expected positive multiples of 32"),
        (replace(REQUEST, grid_h=36), "sides of at most 256"),
        (replace(REQUEST, grid_h=32, grid_w=32), "at most 1024 tokens"),
        (replace(REQUEST, prompts=[PROMPT, [0] * 1010]), "expected a shorter prompt"),
        (replace(REQUEST, settings=replace(SETTINGS, window_size=20)), "window is 20; expected at most 19"),
        (replace(REQUEST, given_codes=torch.zeros(2, 3, dtype=torch.int64)), r"shape \(2, 3\); expected \[rows,4\]"),
        (replace(REQUEST, given_codes=torch.zeros(2, 2, 4, dtype=torch.int64)), r"or \[1,rows,4\]"),
        (replace(REQUEST, given_codes=torch.zeros(4, dtype=torch.int64)), r"shape \(4,\)"),
        (replace(REQUEST, given_codes=torch.zeros(4, 4, dtype=torch.int64)), "at least one row must be left"),
        (replace(REQUEST, given_codes=torch.full((2, 4), 64)), "codes run from 64 to 64; expected 0 to 63"),
        (replace(REQUEST, given_codes=torch.full((2, 4), -1)), "codes run from -1 to -1"),
        (replace(REQUEST, given_codes=torch.zeros(2, 4)), "expected whole numbers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_requests_are_refused_before_any_work(
    transformer: Transformer, vocabulary: Vocabulary, request_: Request, expected: str
) -> None:
    def never(*_: object) -> bool:
        raise AssertionError("the engine ran")

    with pytest.raises(InputError, match=expected):
        draw(transformer, vocabulary, request_, on_step=never, should_cancel=never)


def test_check_refuses_what_draw_refuses(transformer: Transformer, vocabulary: Vocabulary) -> None:
    for bad in (replace(REQUEST, prompts=[]), replace(REQUEST, grid_h=6), replace(REQUEST, grid_w=64)):
        with pytest.raises(InputError):
            check_request(bad, transformer.config, vocabulary)


# Sizes the model was trained on


def told(
    caplog: pytest.LogCaptureFixture, run: Callable[[], object], level: int = logging.WARNING
) -> list[logging.LogRecord]:
    caplog.clear()
    with caplog.at_level(level):
        run()
    return list(caplog.records)


def test_untrained_size_is_told_once(
    caplog: pytest.LogCaptureFixture, transformer: Transformer, vocabulary: Vocabulary
) -> None:
    request = replace(REQUEST, prompts=[PROMPT] * 3, grid_h=8, grid_w=12)
    (record,) = told(caplog, lambda: check_request(request, transformer.config, vocabulary))
    assert "pictures of 96x64; the nearest is 64x64" in record.getMessage()


def test_trained_size_is_not_told(
    caplog: pytest.LogCaptureFixture, transformer: Transformer, vocabulary: Vocabulary
) -> None:
    for grid_h, grid_w in ((4, 4), (8, 4), (4, 8), (8, 8)):
        request = replace(REQUEST, grid_h=grid_h, grid_w=grid_w)
        assert not told(caplog, lambda request=request: check_request(request, transformer.config, vocabulary))


def test_drawing_does_not_tell_again(
    caplog: pytest.LogCaptureFixture, transformer: Transformer, vocabulary: Vocabulary
) -> None:
    request = replace(REQUEST, grid_h=4, grid_w=12)
    assert not told(caplog, lambda: draw(transformer, vocabulary, request))


@pytest.mark.parametrize("size", [(768, 768), (512, 512), (512, 1024), (384, 608), (1024, 256)])
def test_published_sizes_are_the_default(
    caplog: pytest.LogCaptureFixture,
    published: TransformerConfig,
    published_vocabulary: Vocabulary,
    size: tuple[int, int],
) -> None:
    assert published.trained_sizes is None
    assert not told(caplog, lambda: check_request(canvas(*size), published, published_vocabulary))


def test_sizes_of_the_config_count_for_it_alone(
    caplog: pytest.LogCaptureFixture, published: TransformerConfig, published_vocabulary: Vocabulary
) -> None:
    own = replace(published, trained_sizes=((64, 64),))
    assert not told(caplog, lambda: check_request(canvas(64, 64), own, published_vocabulary))
    (record,) = told(caplog, lambda: check_request(canvas(768, 768), own, published_vocabulary))
    assert "nearest is 64x64" in record.getMessage()
    assert len(told(caplog, lambda: check_request(canvas(64, 64), published, published_vocabulary))) == 1


# Drawing


def same(first: DecodeResult, second: DecodeResult) -> bool:
    return torch.equal(first.codes, second.codes)


def test_given_rows_stand_in_the_picture(transformer: Transformer, vocabulary: Vocabulary) -> None:
    given = torch.arange(12).view(3, 4)
    request = replace(REQUEST, prompts=[PROMPT] * 2, given_codes=given)
    assert request.codes_to_draw == 2 * 4 and request.given().shape == (2, 3, 4)
    codes = draw(transformer, vocabulary, replace(request, settings=replace(SETTINGS, window_size=4))).codes
    assert torch.equal(codes[:, :3], given.expand(2, 3, 4))


def test_every_picture_may_have_its_own_prompt_and_rows(transformer: Transformer, vocabulary: Vocabulary) -> None:
    given = torch.stack([torch.zeros(2, 4, dtype=torch.int64), torch.arange(8).view(2, 4)])
    prompts = [PROMPT, PROMPT[:7]]
    both = draw(transformer, vocabulary, replace(REQUEST, prompts=prompts, given_codes=given))
    for k in range(2):
        settings = replace(SETTINGS, seed=SETTINGS.seed + k)
        alone = Request([prompts[k]], 4, 4, given[k], settings)
        assert torch.equal(draw(transformer, vocabulary, alone).codes[0], both.codes[k])


def test_global_random_numbers_are_left_alone(transformer: Transformer, vocabulary: Vocabulary) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = draw(transformer, vocabulary, REQUEST)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert same(draw(transformer, vocabulary, REQUEST), first)


def test_reports_lead_to_the_picture(transformer: Transformer, vocabulary: Vocabulary) -> None:
    reports: list[StepReport] = []
    result = draw(transformer, vocabulary, REQUEST, on_step=reports.append)
    settled = [report.settled[0] for report in reports]
    assert settled == sorted(settled) and settled[-1] == reports[-1].total == REQUEST.codes_to_draw
    assert torch.equal(reports[-1].codes, result.codes)


def test_cancelled_when_asked(transformer: Transformer, vocabulary: Vocabulary) -> None:
    with pytest.raises(Cancelled):
        draw(transformer, vocabulary, REQUEST, should_cancel=lambda: True)
