"""Options that do not go together are refused or said, and messages say what was not done."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lumina_core.files.output_files import OutputFiles

from .cli_runs import CommandLine


@pytest.mark.parametrize(("option", "value"), [("--map", "depth"), ("--object", "a cup")])
def test_an_input_that_the_task_does_not_use_is_said(lumina: CommandLine, option: str, value: str) -> None:
    outcome = lumina.generate(option, value)
    assert outcome.code == 0
    assert f"WARNING: The task t2i takes no {option.strip('-')}: '{value}' is ignored." in outcome.err


@pytest.mark.parametrize("command", ["info", "bench"])
def test_synthetic_goes_with_no_file(lumina: CommandLine, command: str) -> None:
    synthetic = (command, "--synthetic", "tiny")
    checkpoint = ("--checkpoint", lumina.checkpoint)
    lumina.refuses(*synthetic, *checkpoint, expected="--checkpoint: not allowed with argument --synthetic")
    lumina.refuses(command, *checkpoint, *synthetic[1:], expected="--synthetic: not allowed with argument --checkpoint")
    lumina.refuses(*synthetic, "--movqgan", "m.ckpt", expected="--synthetic: not allowed with argument --movqgan")


@pytest.mark.parametrize("batch", [1, 2])
def test_a_whole_picture_as_condition_names_decode(lumina: CommandLine, batch: int) -> None:
    lumina.generate("--batch", batch, name="whole").succeeded()
    whole = lumina.path("whole.json")
    for expected in ("at least one row must be left to draw", "`decode` converts it to a picture"):
        lumina.refuses_to_generate("--condition", whole, expected=expected)
    lumina.generate("--condition", whole, "--given-height", 8).succeeded()


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_tokens_for_which_there_is_room_without_the_picture(
    lumina: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = OutputFiles.write

    def limited(self: OutputFiles, path: Path, content: Any) -> None:
        write(self, path, full_disk if path.suffix == ".json" else content)

    monkeypatch.setattr(OutputFiles, "write", limited)
    line = lumina.generate().refusal()
    tokens = lumina.path("o.json")
    assert "no picture is written, since one of the files cannot be and all are or none" in line
    assert f"cannot write {tokens}: No space left on device; the tokens are saved in {tokens}" in line
    assert list(lumina.files()) == ["o.json"]


def test_a_picture_that_cannot_be_written_says_so_and_where_its_tokens_are(
    lumina: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image.Image, "save", full_disk)
    line = lumina.generate().refusal()
    assert "no picture is written" in line and "No space left on device" in line


@pytest.mark.parametrize(
    ("option", "path", "reason"),
    [
        ("--checkpoint", "a\0b", "a null character"),
        ("--out", "o\0.png", "a null character"),
        ("--condition", "\0", "a null character"),
        ("--movqgan", "a\ud800b", "characters that no name of a file can have here"),
    ],
)
def test_a_path_that_no_system_opens_says_why(lumina: CommandLine, option: str, path: str, reason: str) -> None:
    name = option.strip("-")
    lumina.refuses_to_generate(
        option, path, expected=f"{name} is {path!r}, which no path can be: it has {reason}; expected"
    )
