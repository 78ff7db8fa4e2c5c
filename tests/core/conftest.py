"""Where golden data lies, and a small tokenizer with every special token, for all tests of the engine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from lumina_core.convert import plan_conversion
from lumina_core.pipeline import Lumina

from .checkpoints import make_checkpoint
from .cli_runs import CommandLine, save_noise

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<racm3:break>",
    "<eoss>",
    "<reserved08706>",
    "<reserved08799>",
    *(f"<reserved{8800 + units:05d}>" for units in range(9)),
)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The golden data in this repository."""
    return Path(__file__).parent.parent / "golden"


@pytest.fixture(scope="session")
def full_golden() -> Path:
    """The golden data with its large parts, outside this repository."""
    folder = os.environ.get("LUMINA_GOLDEN")
    if not folder:
        pytest.skip("LUMINA_GOLDEN names no folder with the large golden data (see tests/golden/README.md)")
    return Path(folder)


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder's tokenizer.json: byte-level BPE on a few sentences, special tokens after the text vocabulary."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["an image of a red square, reserved for the end of text"] * 4, trainer)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS[:-1]))
    tokenizer.add_tokens([tokenizers.AddedToken(SPECIAL_TOKENS[-1], special=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": None, "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder / "tokenizer.json"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> Path:
    """A small checkpoint of random weights in the published form; tests that change it take a copy."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "small", tokenizer_file)


@pytest.fixture(scope="session")
def small(checkpoint: Path) -> Lumina:
    """The small checkpoint, loaded in float32 with its MoVQGAN; nothing changes it."""
    return Lumina.load(checkpoint, device="cpu")


@pytest.fixture(scope="session")
def whole(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small checkpoint, converted to int4."""
    out = tmp_path_factory.mktemp("converted") / "whole.safetensors"
    plan_conversion(checkpoint, "int4").write(out)
    return out


@pytest.fixture
def lumina(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line on the small checkpoint, with an empty folder to write to."""
    return CommandLine(checkpoint, tmp_path / "out", capsys)


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """A picture of random colours."""
    return save_noise(tmp_path / "noise.png")
