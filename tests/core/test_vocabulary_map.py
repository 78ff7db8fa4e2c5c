"""The ids of a config's vocabulary_map are those of the tokenizer, unless the map is of another vocabulary."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from lumina_core.checkpoint.find import load_tokenizer
from lumina_core.errors import CheckpointError
from lumina_core.tokens.tokenizer import END_OF_TURN, IMAGE_END, IMAGE_START, Tokenizer, grid_unit_name
from lumina_core.tokens.vocabulary import Vocabulary

from .test_vocabulary import CONFIG
from .tokenizer_files import OF_THE_MODEL, save_tokenizer, small_tokenizer

CHAMELEON = {IMAGE_START: 8197, IMAGE_END: 8196, **{f"IMGIMG{code}Z": 4 + code for code in range(8192)}}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(save_tokenizer(small_tokenizer(), tmp_path_factory.mktemp("files") / "tokenizer"))


def test_same_ids_pass(tokenizer: Tokenizer) -> None:
    ids = {name: tokenizer.token_id(name) for name in OF_THE_MODEL}
    codes = {f"IMGIMG{code}Z": CONFIG.image_token_offset + code for code in range(CONFIG.codebook_size)}
    expected = Vocabulary.of(tokenizer, CONFIG)
    for values in (None, {}, ids, ids | codes, {"<image>": 5, "IMGIMGAZ": 6}):
        assert Vocabulary.of(tokenizer, CONFIG, values) == expected


@pytest.mark.parametrize("name", [IMAGE_START, IMAGE_END, END_OF_TURN, "<reserved08799>", grid_unit_name(17)])
def test_another_id_is_refused_with_both(tokenizer: Tokenizer, name: str) -> None:
    with pytest.raises(CheckpointError, match=f"{name} has the id {tokenizer.token_id(name)} .* and 7 in"):
        Vocabulary.of(tokenizer, CONFIG, {name: 7})


def test_map_of_another_vocabulary_is_ignored_with_a_line_in_the_log(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        Vocabulary.of(tokenizer, CONFIG, CHAMELEON)
    assert len(caplog.records) == 1 and "another vocabulary" in caplog.text


def test_few_codes_make_no_other_vocabulary(tokenizer: Tokenizer) -> None:
    with pytest.raises(CheckpointError, match=IMAGE_START):
        Vocabulary.of(tokenizer, CONFIG, {IMAGE_START: 8197, "IMGIMGAZ": 4})


@pytest.mark.parametrize("damaged", [[], "x", 0, True, {"a": None}, {"a": 1.0}, {"a": True}, {"a": -1}, {"a": "5"}])
def test_damaged_map_is_refused(tokenizer: Tokenizer, damaged: object) -> None:
    with pytest.raises(CheckpointError, match=r"vocabulary_map in config.json .* expected a map of names to ids"):
        Vocabulary.of(tokenizer, CONFIG, damaged)


def test_end_of_turn_that_is_text_needs_no_id(tmp_path: Path) -> None:
    names = [name for name in OF_THE_MODEL if name != END_OF_TURN]
    tokenizer = load_tokenizer(save_tokenizer(small_tokenizer(names), tmp_path / "tokenizer"))
    assert Vocabulary.of(tokenizer, CONFIG, {END_OF_TURN: 7}).end_of_turn is None


def test_two_tokens_of_one_id_are_refused(tmp_path: Path) -> None:
    folder = save_tokenizer(small_tokenizer(), tmp_path / "tokenizer")
    values = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    by_name = {token["content"]: token for token in values["added_tokens"]}
    by_name[IMAGE_START]["id"] = by_name[IMAGE_END]["id"]
    (folder / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"{IMAGE_START} and {IMAGE_END} both have the id"):
        Vocabulary.of(load_tokenizer(folder), CONFIG)
