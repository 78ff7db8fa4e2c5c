"""The demo's text tokenizer: published file form, every byte, the same files for the same seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from training import text_tokenizer
from training.text_tokenizer import MERGES, SPECIAL_TOKENS, prompts, train_text_tokenizer

CAPTIONS = 600


def train(folder: Path) -> None:
    """Trains on a tenth of the prompts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_tokenizer, "CAPTIONS", CAPTIONS)
        train_text_tokenizer(folder, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    train(path)
    return path


def test_same_seed_same_files(folder, tmp_path):
    train(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_special_tokens_come_last_and_are_configured(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    ids = [tokenizer.token_to_id(name) for name in SPECIAL_TOKENS]
    assert ids == list(range(ids[0], tokenizer.get_vocab_size())) and ids[-1] < 256 + MERGES + len(SPECIAL_TOKENS)
    assert config["bos_token"] is None and config["eos_token"] == "<|endoftext|>"
    assert {entry["content"] for entry in config["added_tokens_decoder"].values()} == set(SPECIAL_TOKENS)


def test_any_text_comes_back(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in (*prompts(1, 20), "größe 🎨\n\t12 €", ""):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_demo_prompts_are_short(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "Generate an image of 96x96 according to the following prompt:\na red circle to the left of a blue square"
    assert len(tokenizer.encode(text).ids) <= 26
