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

from lumina_core import pipeline
from lumina_core.cli import kept
from lumina_core.errors import CheckpointError
from lumina_core.files.output_files import OutputFiles
from lumina_core.files.temporary import Draft
from lumina_core.pipeline import Lumina
from lumina_core.tokens.token_files import keep_tokens

from .cli_runs import CommandLine, read_pixels

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
        pytest.param(OutputFiles, "write_json", 0, id="tokens"),
        pytest.param(OutputFiles, "write_json", 1, id="stats"),
        pytest.param(os, "fsync", 3, id="content of the last"),
    ],
)
def test_a_full_disk_keeps_the_tokens_and_nothing_else(
    lumina: CommandLine, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, calls: int
) -> None:
    for file in ("o_0.png", "o.json"):
        lumina.path(file).write_text("old")
    failing, is_full = getattr(owner, name), True

    def now(*arguments: Any, **options: Any) -> Any:
        return (limited if is_full else failing)(*arguments, **options)

    def keep(*arguments: Any) -> Path:
        nonlocal is_full
        is_full = False
        return keep_tokens(*arguments)

    limited = after(calls, failing, full_disk)
    monkeypatch.setattr(owner, name, now)
    monkeypatch.setattr(kept, "keep_tokens", keep)
    before = lumina.files()
    line = lumina.generate("--batch", 2).refusal()
    monkeypatch.undo()
    assert f"the tokens are saved in {lumina.path('o.tokens.json')}: `decode` converts them" in line
    assert "No space left on device" in line
    assert {name: content for name, content in lumina.files().items() if name != "o.tokens.json"} == before
    lumina.decode(lumina.path("o.tokens.json"), "decoded.png").succeeded()
    lumina.generate("--batch", 2).succeeded()
    for k in range(2):
        assert np.array_equal(read_pixels(lumina.path(f"decoded_{k}.png")), read_pixels(lumina.path(f"o_{k}.png")))


def test_full_disk_for_encode_and_decode(lumina: CommandLine, noise: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lumina.generate().succeeded()
    monkeypatch.setattr(os, "fsync", full_disk)
    assert "decoded.png: No space left" in lumina.decode(lumina.path("o.json"), "decoded.png").refusal()
    assert "t.json: No space left" in lumina.encode(noise, "t.json").refusal()
    assert sorted(lumina.files()) == ["o.json", "o.png", "o.stats.json"]


def test_tokens_go_to_the_temporary_folder_where_theirs_takes_no_file(
    lumina: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "temporary"
    other.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(other))
    write = Draft.open

    def full_but_elsewhere(self: Draft) -> Any:
        return write(self) if self.folder == other else full_disk()

    monkeypatch.setattr(Draft, "open", full_but_elsewhere)
    line = lumina.generate().refusal()
    assert f"the tokens are saved in {other / 'o.tokens.json'}" in line and lumina.files() == {}
    monkeypatch.setattr(Draft, "open", full_disk)
    line = lumina.generate().refusal()
    assert "nor can the tokens be saved (cannot write " in line


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("prompt", ["a red square", ""])
def test_an_interrupt_while_loading_leaves_nothing(
    lumina: CommandLine, monkeypatch: pytest.MonkeyPatch, prompt: str
) -> None:
    lumina.path("o.png").write_text("old")
    monkeypatch.setattr(pipeline, "load_transformer", interrupt)
    lumina.refuses_to_generate("--prompt", prompt, expected="cancelled; nothing was written", code=130)


@pytest.mark.parametrize(("owner", "name"), [(Lumina, "decode"), (Image.Image, "save")])
def test_an_interrupt_after_drawing_keeps_the_tokens(
    lumina: CommandLine, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    lumina.path("o.png").write_text("old")
    lumina.path("o.json").write_text("old")
    monkeypatch.setattr(owner, name, interrupt)
    line = lumina.generate().refusal(130)
    monkeypatch.undo()
    saved = lumina.path("o.tokens.json")
    assert line == f"lumina_core: cancelled; the tokens are saved in {saved}: `decode` converts them to pictures"
    assert sorted(lumina.files()) == ["o.json", "o.png", "o.tokens.json"]
    lumina.generate(name="whole").succeeded()
    assert lumina.tokens("o.tokens") == lumina.tokens("whole")


def test_an_interrupt_when_the_files_are_in_place_says_so(lumina: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    leave = OutputFiles.__exit__

    def late(self: OutputFiles, *arguments: Any) -> None:
        leave(self, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(OutputFiles, "__exit__", late)
    line = lumina.generate().refusal(130)
    names = ("o.png", "o.json", "o.stats.json")
    assert line == f"lumina_core: cancelled after {', '.join(str(lumina.path(name)) for name in names)} was written"
    assert sorted(lumina.files()) == sorted(names)


def out_of_memory(*_: object, **__: object) -> None:
    raise MemoryError


def damaged(*_: object, **__: object) -> None:
    raise CheckpointError("several\nlines\tof  it")


def unreadable(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied", "model.safetensors")


@pytest.mark.parametrize(
    ("fail", "expected"),
    [
        (out_of_memory, "out of memory; use a smaller picture or --batch"),
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
