"""Codes and a picture's token list are two forms of the same thing; what is forced stands where it must."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.checkpoint.find import load_tokenizer
from lumina_core.errors import CheckpointError, InputError
from lumina_core.pictures.sizes import picture_length
from lumina_core.tokens.vocabulary import Vocabulary

CONFIG = TransformerConfig(
    vocab_size=1064,
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=16,
    max_position_embeddings=128,
    image_token_offset=1000,
    codebook_size=64,
)
PUBLISHED = Vocabulary(
    image_start=151_665,
    image_end=151_666,
    end_of_row=151_670,
    end_of_turn=151_800,
    grid_units=tuple(range(151_671, 151_671 + 129)),
    image_token_offset=155_000,
    codebook_size=16_384,
)


@pytest.fixture(scope="module")
def vocabulary(tokenizer_file: Path) -> Vocabulary:
    return Vocabulary.of(load_tokenizer(tokenizer_file), CONFIG)


def codes_of(grid_h: int, grid_w: int) -> torch.Tensor:
    return torch.randint(0, CONFIG.codebook_size, (grid_h, grid_w), generator=torch.Generator().manual_seed(0))


def test_ids_are_found_by_name(vocabulary: Vocabulary, tokenizer_file: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_file)
    assert vocabulary.image_start == tokenizer.token_id("<racm3:break>")
    assert vocabulary.image_end == tokenizer.token_id("<eoss>")
    assert vocabulary.end_of_row == tokenizer.token_id("<reserved08799>")
    assert vocabulary.end_of_turn == tokenizer.token_id("<reserved08706>")
    assert vocabulary.grid_units[3] == tokenizer.token_id("<reserved08803>")
    assert vocabulary.max_side == 256


@pytest.mark.parametrize(("grid_h", "grid_w"), [(4, 4), (4, 12), (32, 8)])
def test_codes_survive_the_way_to_tokens_and_back(vocabulary: Vocabulary, grid_h: int, grid_w: int) -> None:
    codes = codes_of(grid_h, grid_w)
    tokens = vocabulary.picture_tokens(codes)
    assert len(tokens) == picture_length(grid_h, grid_w)
    assert torch.equal(vocabulary.parse_picture(tokens), codes)


def test_only_codes_differ_between_pictures_of_a_size(vocabulary: Vocabulary) -> None:
    codes = codes_of(8, 4)
    pairs = zip(vocabulary.picture_tokens(codes), vocabulary.picture_tokens(63 - codes), strict=True)
    differing = [(one, other) for one, other in pairs if one != other]
    assert len(differing) == 8 * 4 and min(map(min, differing)) >= CONFIG.image_token_offset


def test_height_comes_before_width(vocabulary: Vocabulary) -> None:
    assert vocabulary.header(20, 8) == [vocabulary.image_start, vocabulary.grid_units[5], vocabulary.grid_units[2]]
    assert vocabulary.picture_tokens(codes_of(20, 8))[:3] == vocabulary.header(20, 8)


def test_given_rows_are_the_picture_after_its_header(vocabulary: Vocabulary) -> None:
    codes = codes_of(8, 4)
    assert vocabulary.row_tokens(codes[:3]) == vocabulary.picture_tokens(codes)[3 : 3 + 3 * 5]


@pytest.mark.parametrize("case", ["i2i", "t2i_cfg4", "t2i_cfg1"])
def test_published_pictures_are_parsed(golden: Path, case: str) -> None:
    expected = json.loads((golden / "end_to_end" / "expected.json").read_text())[case]
    codes = PUBLISHED.parse_picture(expected["tokens"])
    assert tuple(codes.shape) == (expected["height"] // 8, expected["width"] // 8)
    assert PUBLISHED.picture_tokens(codes) == expected["tokens"]


def test_a_published_size_has_the_published_length() -> None:
    assert picture_length(96, 96) == 3 + 9_312 + 1


@pytest.mark.parametrize(
    ("position", "token", "message"),
    [
        (0, 5, "token 0 .* is 5; expected .* the start"),
        (1, 5, "token 1 .* is 5; expected H"),
        (2, None, "token 2 .* is None; expected W"),
        (3, 999, "token 3 .* is 999; expected an image code, 1000 to 1063"),
        (6, 1064, "token 6 .* is 1064; expected an image code"),
        (7, 1000, "token 7 .* is 1000; expected .* the end of row 0"),
        (22, 1000, "token 22 .* is 1000; expected .* the end of row 3"),
        (23, 1000, "token 23 .* is 1000; expected .* the end of the picture"),
    ],
)
def test_first_wrong_token_is_named(vocabulary: Vocabulary, position: int, token: int, message: str) -> None:
    tokens = vocabulary.picture_tokens(codes_of(4, 4))
    tokens[position] = token
    with pytest.raises(InputError, match=message):
        vocabulary.parse_picture(tokens)


def test_zero_grid_units_are_no_picture(vocabulary: Vocabulary) -> None:
    with pytest.raises(InputError, match="token 1"):
        vocabulary.parse_picture([vocabulary.image_start, *vocabulary.grid_units[:2], vocabulary.image_end])


@pytest.mark.parametrize("change", [lambda ids: ids[:2], lambda ids: ids[:-1], lambda ids: [*ids, ids[-1]]])
def test_wrong_length_is_named(vocabulary: Vocabulary, change) -> None:
    with pytest.raises(InputError, match="tokens; expected"):
        vocabulary.parse_picture(change(vocabulary.picture_tokens(codes_of(4, 4))))


@pytest.mark.parametrize(
    ("grid", "expected"), [((0, 4), "multiples"), ((4, 36), "at most 256"), ((-4, 4), "multiples")]
)
def test_header_out_of_range(vocabulary: Vocabulary, grid: tuple[int, int], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        vocabulary.header(*grid)


def test_bad_codes(vocabulary: Vocabulary) -> None:
    for bad in (torch.zeros(4), torch.zeros(4, 4), torch.full((4, 4), 64), torch.full((4, 4), -1)):
        with pytest.raises(InputError, match="codes"):
            vocabulary.picture_tokens(bad)
    with pytest.raises(InputError, match="multiples of 32"):
        vocabulary.picture_tokens(codes_of(4, 6))


def test_config_that_does_not_hold_the_tokens(tokenizer_file: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_file)
    with pytest.raises(CheckpointError, match="vocab_size is 1063; expected at least 1064"):
        Vocabulary.of(tokenizer, replace(CONFIG, vocab_size=1063))
    with pytest.raises(CheckpointError, match="outside the image codes"):
        Vocabulary.of(tokenizer, replace(CONFIG, image_token_offset=tokenizer.token_id("<eoss>")))
