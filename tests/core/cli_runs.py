"""Runs of the command line in this process, for tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.checkpoint.find import load_tokenizer
from lumina_core.cli.main import main
from lumina_core.movqgan.autoencoder import MoVQGAN
from lumina_core.movqgan.load import load_movqgan
from lumina_core.tokens.tokenizer import Tokenizer
from lumina_core.tokens.vocabulary import Vocabulary


@dataclass(frozen=True)
class Outcome:
    """What one command gave back and said."""

    code: int
    out: str
    err: str

    def succeeded(self) -> Outcome:
        """Asserts success without a word on stderr."""
        assert (self.code, self.err) == (0, "")
        return self

    def refusal(self, code: int = 2) -> str:
        """Asserts that the command failed with one line on stderr and nothing on stdout; gives the line."""
        assert (self.code, self.out) == (code, ""), self.err
        assert self.err.startswith("lumina_core: ") and self.err.count("\n") == 1 and self.err.endswith("\n"), self.err
        return self.err.strip()


class CommandLine:
    """Commands on one checkpoint, with a folder for what they write; later options win over earlier ones."""

    def __init__(self, checkpoint: Path, folder: Path, capsys: pytest.CaptureFixture[str]):
        self.checkpoint, self.folder, self._capsys = checkpoint, folder, capsys
        folder.mkdir()

    @property
    def movqgan(self) -> MoVQGAN:
        """The checkpoint's codec."""
        return load_movqgan(self.checkpoint / "movqgan.safetensors")

    @property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.checkpoint)

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary.of(self.tokenizer, TransformerConfig.from_file(self.checkpoint / "config.json"))

    def run(self, *arguments: object) -> Outcome:
        """`python -m lumina_core ARGUMENTS`."""
        self._capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *self._capsys.readouterr())

    def said(self) -> str:
        """What a command that still runs has printed since this was last asked."""
        return self._capsys.readouterr().out

    def generate(self, *options: object, name: str = "o") -> Outcome:
        """Draws 32x32 on the CPU in float32 unless told otherwise, into `name`.png, .json and .stats.json."""
        return self.run(
            *("generate", "--checkpoint", self.checkpoint, "--device", "cpu", "--weights", "fp32"),
            *("--prompt", "a red square", "--width", 32, "--height", 32, "--out", self.path(f"{name}.png")),
            *("--tokens-out", self.path(f"{name}.json"), "--stats-out", self.path(f"{name}.stats.json")),
            *options,
        )

    def refuses(self, *arguments: object, expected: str, code: int = 2) -> None:
        """Asserts that a command says one line with these words in it and leaves the folder as it was."""
        self._check_refusal(lambda: self.run(*arguments), expected, code)

    def refuses_to_generate(self, *options: object, expected: str, code: int = 2) -> None:
        """As `refuses`, for `generate`."""
        self._check_refusal(lambda: self.generate(*options), expected, code)

    def _check_refusal(self, run: Callable[[], Outcome], expected: str, code: int) -> None:
        before = self.files()
        line = run().refusal(code)
        assert expected in line, line
        assert self.files() == before

    def path(self, name: str) -> Path:
        return self.folder / name

    def tokens(self, name: str = "o") -> list[list[int]]:
        """The token lists of `generate` or `encode`."""
        content = json.loads(self.path(f"{name}.json").read_text(encoding="utf-8"))
        assert list(content) == ["tokens"]
        return content["tokens"]

    def stats(self, name: str = "o") -> dict[str, Any]:
        return json.loads(self.path(f"{name}.stats.json").read_text(encoding="utf-8"))

    def files(self) -> dict[str, bytes | None]:
        """Everything in the folder, hidden files too; what is no file as None."""
        found = sorted(self.folder.rglob("*"))
        return {str(path.relative_to(self.folder)): path.read_bytes() if path.is_file() else None for path in found}

    def encode(self, picture: Path, name: str, *options: object) -> Outcome:
        """Encodes a picture into `name`."""
        return self.run("encode", picture, "--checkpoint", self.checkpoint, "--tokens-out", self.path(name), *options)

    def decode(self, tokens: Path, name: str) -> Outcome:
        """Decodes a file of tokens into `name`."""
        return self.run("decode", tokens, "--checkpoint", self.checkpoint, "--out", self.path(name))


def save_noise(path: Path, size: tuple[int, int] = (40, 50)) -> Path:
    """Writes a picture of random colours."""
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


def read_pixels(path: Path) -> np.ndarray:
    """The pixels of an RGB picture, signed so that they can be subtracted."""
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
        return np.asarray(picture).astype(int)
