"""Runs of the command line in this process, for tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lumina_core.cli import main


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

    def run(self, *arguments: object) -> Outcome:
        """`python -m lumina_core ARGUMENTS`."""
        self._capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *self._capsys.readouterr())

    def generate(self, *options: object, name: str = "o") -> Outcome:
        """Draws 32x32 on the CPU in float32 unless told otherwise, into `name`.png, .json and .stats.json."""
        return self.run(
            *("generate", "--checkpoint", self.checkpoint, "--device", "cpu", "--weights", "fp32"),
            *("--prompt", "a red square", "--width", 32, "--height", 32, "--out", self.path(f"{name}.png")),
            *("--tokens-out", self.path(f"{name}.json"), "--stats-out", self.path(f"{name}.stats.json")),
            *options,
        )

    def path(self, name: str) -> Path:
        return self.folder / name

    def tokens(self, name: str = "o") -> list[list[int]]:
        """The token lists of `generate` or `encode`."""
        content = json.loads(self.path(f"{name}.json").read_text(encoding="utf-8"))
        assert list(content) == ["tokens"]
        return content["tokens"]

    def stats(self, name: str = "o") -> dict[str, Any]:
        return json.loads(self.path(f"{name}.stats.json").read_text(encoding="utf-8"))

    def files(self) -> dict[str, bytes]:
        """Everything in the folder, hidden files too."""
        return {str(file.relative_to(self.folder)): file.read_bytes() for file in self.folder.rglob("*")}
