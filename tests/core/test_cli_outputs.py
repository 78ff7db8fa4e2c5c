"""Outputs appear together or not at all, and where they cannot be written is said before the work."""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tqdm import tqdm

from lumina_core import pipeline
from lumina_core.errors import CheckpointError
from lumina_core.pipeline import Lumina

from .cli_runs import CommandLine

NEEDS_PROC = pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc here")


def test_outputs_replace_files_of_their_names_and_leave_nothing_else(lumina: CommandLine) -> None:
    for name in ("o.png", "o.json", "o.stats.json"):
        lumina.path(name).write_text("old")
    lumina.generate().succeeded()
    assert sorted(lumina.files()) == ["o.json", "o.png", "o.stats.json"]
    assert b"old" not in lumina.files().values()
    umask = os.umask(0)
    os.umask(umask)
    if os.name == "posix":
        assert {path.stat().st_mode & 0o777 for path in lumina.folder.iterdir()} == {0o666 & ~umask}


def test_output_through_a_link_is_written_to_its_file(lumina: CommandLine, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere.json"
    try:
        lumina.path("o.json").symlink_to(place)
    except OSError:
        pytest.skip("links cannot be made here")
    lumina.generate().succeeded()
    assert lumina.path("o.json").is_symlink() and json.loads(place.read_text())["tokens"]


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ("{}/absent/o.png", "absent does not exist; create it first"),
        ("{}/o", "the suffix is ''; expected one of .png"),
        ("{}/o.txt", "the suffix is '.txt'"),
        ("{}/o.xbm", "the suffix is '.xbm'"),
        ("", "the suffix is ''"),
        ("{}", "the suffix is ''"),
        ("{}/folder_0.png", "it is a folder"),
        ("{}/file/o.png", "Not a directory"),
        pytest.param("/proc/o.png", "cannot write /proc/o", marks=NEEDS_PROC),
        ("{}/" + "a" * 300 + ".png", "File name too long"),
    ],
)
def test_pictures_that_cannot_be_written(lumina: CommandLine, out: str, expected: str) -> None:
    lumina.path("folder_0.png").mkdir()
    lumina.path("file").touch()
    path = out.format(lumina.folder)
    lumina.refuses_to_generate("--out", path, expected=expected)
    lumina.refuses_to_generate("--out", path.replace("_0", ""), "--batch", 2, expected=expected)


@pytest.mark.parametrize("option", ["--tokens-out", "--stats-out"])
def test_json_that_cannot_be_written(lumina: CommandLine, option: str) -> None:
    lumina.path("folder").mkdir()
    for name, expected in (("folder", "it is a folder"), ("absent/t.json", "create it first")):
        lumina.refuses_to_generate(option, lumina.path(name), expected=expected)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in the file system here")
def test_a_device_is_never_replaced_by_a_file(lumina: CommandLine) -> None:
    os.mkfifo(lumina.path("pipe.png"))
    for option in ("--out", "--tokens-out"):
        lumina.refuses_to_generate(option, lumina.path("pipe.png"), expected="it is a folder or a device")
    assert stat.S_ISFIFO(lumina.path("pipe.png").stat().st_mode)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--tokens-out", "{}/o.png"), "o.png would be written twice"),
        (("--tokens-out", "{}/../out/o.png"), "o.png would be written twice"),
        (("--stats-out", "{}/o.json"), "o.json would be written twice"),
        (("--batch", "2", "--tokens-out", "{}/o_1.png"), "o_1.png would be written twice"),
    ],
)
def test_two_outputs_of_one_name(lumina: CommandLine, options: tuple[str, ...], expected: str) -> None:
    lumina.refuses_to_generate(*(option.format(lumina.folder) for option in options), expected=expected)


# What fails on the way


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def after(calls: int, function: Callable[..., Any], fail: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, failing from a call on."""
    count = 0

    def wrapped(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        return (function if count <= calls else fail)(*arguments, **options)

    return wrapped


@pytest.mark.parametrize(
    ("owner", "name", "calls"),
    [
        pytest.param(os, "replace", 0, id="moving"),
        pytest.param(Image.Image, "save", 0, id="first picture"),
        pytest.param(Image.Image, "save", 1, id="second picture"),
        pytest.param(tempfile, "mkstemp", 2, id="tokens"),
        pytest.param(tempfile, "mkstemp", 3, id="stats"),
        pytest.param(os, "chmod", 3, id="rights of the last"),
    ],
)
def test_full_disk(lumina: CommandLine, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, calls: int) -> None:
    for file in ("o_0.png", "o.json"):
        lumina.path(file).write_text("old")
    monkeypatch.setattr(owner, name, after(calls, getattr(owner, name), full_disk))
    before = lumina.files()
    line = lumina.generate("--batch", 2).refusal()
    monkeypatch.undo()
    assert lumina.files() == before
    assert f"cannot write {lumina.folder}" in line and "No space left on device" in line


def test_full_disk_for_encode_and_decode(lumina: CommandLine, noise: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lumina.generate().succeeded()
    monkeypatch.setattr(os, "replace", full_disk)
    assert "decoded.png: No space left" in lumina.decode(lumina.path("o.json"), "decoded.png").refusal()
    assert "t.json: No space left" in lumina.encode(noise, "t.json").refusal()
    assert sorted(lumina.files()) == ["o.json", "o.png", "o.stats.json"]


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        pytest.param(pipeline, "load_transformer", id="loading"),
        pytest.param(tqdm, "update", id="drawing"),
        pytest.param(Image.Image, "save", id="writing"),
    ],
)
@pytest.mark.parametrize("prompt", ["a red square", ""])
def test_interrupt(lumina: CommandLine, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, prompt: str) -> None:
    lumina.path("o.png").write_text("old")
    monkeypatch.setattr(owner, name, interrupt)
    before = lumina.files()
    done = lumina.generate("--prompt", prompt)
    assert (done.code, done.out, lumina.files()) == (130, "", before)
    expected = [] if prompt or name == "load_transformer" else ["WARNING: The prompt is empty: the model gets the size"]
    *warnings, last = done.err.splitlines()
    assert last == "lumina_core: cancelled; nothing was written"
    assert [line[: len(words)] for line, words in zip(warnings, expected, strict=True)] == expected


def out_of_memory(*_: object, **__: object) -> None:
    raise MemoryError


def damaged(*_: object, **__: object) -> None:
    raise CheckpointError("several\nlines\tof  it")


def unreadable(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied", "model.safetensors")


@pytest.mark.parametrize(
    ("fail", "expected"),
    [
        (out_of_memory, "out of memory; use a smaller picture, --batch or --window"),
        (damaged, "several lines of it"),
        (unreadable, "cannot read or write model.safetensors: Permission denied"),
    ],
)
def test_errors_from_within_are_one_line(
    lumina: CommandLine, monkeypatch: pytest.MonkeyPatch, fail: Callable[..., None], expected: str
) -> None:
    monkeypatch.setattr(Lumina, "sample", fail)
    lumina.refuses_to_generate(expected=expected)


def test_what_is_no_fault_of_the_input_is_not_hidden(lumina: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lumina, "sample", lambda *_, **__: np.zeros(1)[2])
    with pytest.raises(IndexError):
        lumina.generate()
    assert lumina.files() == {}
