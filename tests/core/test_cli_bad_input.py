"""Bad input: one line on stderr that says what is wrong, exit code 2, and nothing written."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import stat
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lumina_core.checkpoint import INDEX
from lumina_core.cli import generate as generate_command
from lumina_core.errors import CheckpointError

from .checkpoints import SHARDS, save_movqgan
from .cli_runs import CommandLine

NORM = "model.norm.weight"
NEEDS_PROC = pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc here")


@pytest.fixture
def copied(lumina: CommandLine, tmp_path: Path) -> Path:
    """The checkpoint that the commands use, in a copy that may be changed."""
    lumina.checkpoint = Path(shutil.copytree(lumina.checkpoint, tmp_path / "copied"))
    return lumina.checkpoint


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.linear_gradient("L").convert("RGB").save(path)
    return path


def refused(lumina: CommandLine, *arguments: object, expected: Sequence[str] = (), code: int = 2) -> None:
    """Asserts that a command says one line with the expected words in it and leaves the folder as it was."""
    before = lumina.files()
    line = lumina.run(*arguments).refusal(code)
    assert lumina.files() == before
    for words in expected:
        assert words in line, line


def generate_refused(lumina: CommandLine, *options: object, expected: Sequence[str] = (), code: int = 2) -> None:
    """As `refused`, for `CommandLine.generate`."""
    before = lumina.files()
    line = lumina.generate(*options).refusal(code)
    assert lumina.files() == before
    for words in expected:
        assert words in line, line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "required: COMMAND"),
        (("draw",), "invalid choice: 'draw'"),
        (("generate",), "--checkpoint, --prompt, --width, --height, --out"),
        (("generate", "--magic"), "required"),
        (("encode",), "image, --tokens-out"),
        (("decode",), "tokens, --out"),
        (("info", "--magic"), "unrecognized arguments: --magic"),
    ],
)
def test_incomplete_commands(lumina: CommandLine, arguments: tuple[str, ...], expected: str) -> None:
    refused(lumina, *arguments, expected=[expected, "--help"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--width", 65), "65x32; expected positive multiples of 32; the nearest legal size is 64x32"),
        (("--height", 0), "32x0; expected positive multiples of 32"),
        (("--width", -64), "-64x32; expected positive multiples of 32"),
        (("--width", 288), "sides of at most 256"),
        (("--width", 256, "--height", 256), "at most 1024 tokens"),
        (("--height", 10**30), "sides of at most 256"),
        (("--width", 32 * 10**400), "sides of at most 256"),
        (("--width", 1.5), "invalid int value: '1.5'"),
        (("--width", "wide"), "invalid int value: 'wide'"),
        (("--cfg", "nan"), "cfg is nan"),
        (("--cfg", "inf"), "cfg is inf"),
        (("--cfg", -1), "cfg is -1.0"),
        (("--cfg", "strong"), "invalid float value: 'strong'"),
        (("--top-k", 0), "top_k is 0"),
        (("--top-k", -5), "top_k is -5"),
        (("--temperature", 0), "temperature is 0.0"),
        (("--temperature", "nan"), "temperature is nan"),
        (("--temperature", "inf"), "temperature is inf"),
        (("--temperature", -1), "temperature is -1.0"),
        (("--seed", -1), "seed is -1"),
        (("--seed", 2**64), f"seed is {2**64}"),
        (("--window", 0), "window is 0"),
        (("--window", 129), "window is 129; expected a whole number from 1 to 128"),
        (("--window", 20), "window is 20; expected at most 19"),
        (("--batch", 0), "batch is 0; expected 1 to 1024"),
        (("--batch", -1), "batch is -1"),
        (("--batch", 10**9), f"batch is {10**9}"),
        (("--decoder", "magic"), "invalid choice: 'magic'"),
        (("--task", "magic"), "invalid choice: 'magic'"),
        (("--weights", "int3"), "invalid choice: 'int3'"),
        (("--device", "abacus"), "invalid choice: 'abacus'"),
        (("--prompt", "word " * 3000), "expected a shorter prompt"),
        (("--prompt", "\udcff"), "not valid Unicode"),
        (("--checkpoint", "absent"), "checkpoint absent does not exist"),
        (("--movqgan", "absent.ckpt"), "MoVQGAN file absent.ckpt is missing"),
    ],
    ids=lambda value: " ".join(map(str, value))[:40] if isinstance(value, tuple) else "",
)
def test_options_out_of_range(lumina: CommandLine, options: tuple[object, ...], expected: str) -> None:
    generate_refused(lumina, *options, expected=[expected])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_where_there_is_none(lumina: CommandLine) -> None:
    generate_refused(lumina, "--device", "cuda", expected=["--device is cuda", "use --device cpu"])


@pytest.mark.parametrize("size", [("--height", 10**30), ("--width", 3_200_000_000, "--height", 3_200_000_000)])
def test_a_size_beyond_all_memory(lumina: CommandLine, picture: Path, size: tuple[object, ...]) -> None:
    generate_refused(lumina, "--task", "edit", "--condition", picture, *size, expected=["nearest legal size"])
    refused(lumina, "info", "--checkpoint", lumina.checkpoint, *size, expected=["nearest legal size"])


@pytest.mark.parametrize("task", ["control", "subject", "edit", "predict"])
def test_task_without_its_condition(lumina: CommandLine, task: str) -> None:
    options = ("--map", "depth", "--object", "a cup")
    generate_refused(lumina, "--task", task, *options, expected=[f"the task {task} needs a picture", "--condition"])


@pytest.mark.parametrize("task", ["t2i", "pair"])
def test_condition_for_a_task_that_takes_none(lumina: CommandLine, picture: Path, task: str) -> None:
    options = ("--task", task, "--map", "depth", "--condition", picture)
    generate_refused(lumina, *options, expected=[f"the task {task} takes no picture"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--task", "pair"), "'pair' came without map"),
        (("--task", "control"), "'control' came without map"),
        (("--task", "predict"), "'predict' came without map"),
        (("--task", "control", "--map", "heat"), "invalid choice: 'heat'"),
        (("--task", "subject"), "'subject' came without object"),
        (("--task", "subject", "--object", " "), "'subject' came without object"),
        (("--task", "subject", "--object", "a cup", "--prompt", ""), "'subject' came without prompt"),
        (("--task", "edit", "--prompt", ""), "'edit' came without prompt"),
    ],
)
def test_task_without_map_object_or_prompt(
    lumina: CommandLine, picture: Path, options: tuple[str, ...], expected: str
) -> None:
    condition = () if "pair" in options else ("--condition", picture)
    generate_refused(lumina, "--height", 64, *options, *condition, expected=[expected])


def no_picture(path: Path) -> None:
    path.write_text("no picture")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def bomb(path: Path) -> None:
    """A small file of 400 million pixels."""
    Image.new("1", (20_000, 20_000)).save(path)


@pytest.mark.parametrize("spoil", [Path.unlink, no_picture, empty, half, bomb])
def test_unreadable_pictures(lumina: CommandLine, picture: Path, spoil: Callable[[Path], None]) -> None:
    spoil(picture)
    expected = [f"cannot read the picture {picture}"]
    options = ("--task", "edit", "--height", 64, "--condition", picture)
    generate_refused(lumina, *options, expected=expected)
    arguments = ("encode", picture, "--checkpoint", lumina.checkpoint, "--tokens-out", lumina.path("t.json"))
    refused(lumina, *arguments, expected=expected)


def test_folder_as_picture(lumina: CommandLine, tmp_path: Path) -> None:
    generate_refused(lumina, "--task", "edit", "--height", 64, "--condition", tmp_path, expected=["cannot read"])


def test_warnings_give_way_to_the_error(lumina: CommandLine, tmp_path: Path) -> None:
    """Pillow warns of this picture's size, and an empty prompt is told, but the size of the canvas is what is wrong."""
    Image.new("1", (10_000, 10_000)).save(tmp_path / "large.png")
    options = ("--task", "control", "--map", "hed", "--condition", tmp_path / "large.png", "--prompt", "")
    generate_refused(lumina, *options, "--width", 33, expected=["multiples of 32"])


# The checkpoint


def change_json(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def without_shard(folder: Path) -> None:
    (folder / SHARDS[1]).unlink()


def with_cut_shard(folder: Path) -> None:
    half(folder / SHARDS[1])


def with_cut_header(folder: Path) -> None:
    (folder / SHARDS[1]).write_bytes((folder / SHARDS[1]).read_bytes()[:100])


def with_wrong_shape(folder: Path) -> None:
    for shard in SHARDS:
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / shard).items()}
        save_file({name: tensor[1:] if name == NORM else tensor for name, tensor in tensors.items()}, folder / shard)


def without_tensor(folder: Path) -> None:
    for shard in SHARDS:
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / shard).items()}
        save_file({name: tensor for name, tensor in tensors.items() if name != NORM}, folder / shard)


def without_special_token(folder: Path) -> None:
    file = folder / "tokenizer.json"
    added = json.loads(file.read_text())["added_tokens"]
    change_json(file, added_tokens=[token for token in added if token["content"] != "<reserved08799>"])


def with_two_movqgans(folder: Path) -> None:
    for number in (1, 2):
        shutil.copy(folder / "movqgan.safetensors", folder / f"movqgan_{number}.safetensors")
    (folder / "movqgan.safetensors").unlink()


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        pytest.param(without_shard, f"shards missing in {{}}: {SHARDS[1]}", id="shard missing"),
        pytest.param(with_cut_shard, "is not a whole safetensors file", id="shard cut off"),
        pytest.param(with_cut_header, "is not a whole safetensors file", id="header cut off"),
        pytest.param(with_wrong_shape, f"`{NORM}` has shape [31], expected [32]", id="wrong shape"),
        pytest.param(without_tensor, f"missing `{NORM}`", id="tensor missing"),
        pytest.param(lambda folder: (folder / INDEX).unlink(), "exactly one .safetensors file", id="no index"),
        pytest.param(lambda folder: (folder / INDEX).write_text("{"), "cannot read", id="bad index"),
        pytest.param(lambda folder: (folder / "config.json").unlink(), "config.json is missing", id="no config"),
        pytest.param(lambda folder: (folder / "config.json").write_text("{"), "is not JSON", id="bad config"),
        pytest.param(
            lambda folder: change_json(folder / "config.json", vocab_size=400), "expected at least 448", id="vocabulary"
        ),
        pytest.param(
            lambda folder: change_json(folder / "config.json", hidden_size=64), "expected [448, 64]", id="other config"
        ),
        pytest.param(lambda folder: (folder / "tokenizer.json").unlink(), "there is no tokenizer", id="no tokenizer"),
        pytest.param(lambda folder: empty(folder / "tokenizer.json"), "is not a tokenizer", id="bad tokenizer"),
        pytest.param(without_special_token, "no token named <reserved08799>", id="special token missing"),
        pytest.param(lambda folder: (folder / "movqgan.safetensors").unlink(), "--movqgan", id="no MoVQGAN"),
        pytest.param(with_two_movqgans, "--movqgan", id="two MoVQGANs"),
        pytest.param(lambda folder: half(folder / "movqgan.safetensors"), "whole safetensors", id="MoVQGAN cut off"),
        pytest.param(
            lambda folder: save_movqgan(folder / "movqgan.safetensors", codebook_size=32),
            "has 32 codes of 8 pixels, the checkpoint draws 64 of 8",
            id="codebook of another size",
        ),
        pytest.param(
            lambda folder: save_movqgan(folder / "movqgan.safetensors", multipliers=(1, 1, 1)),
            "has 64 codes of 4 pixels, the checkpoint draws 64 of 8",
            id="codes of another size",
        ),
    ],
)
def test_bad_checkpoints(lumina: CommandLine, copied: Path, spoil: Callable[[Path], None], expected: str) -> None:
    spoil(copied)
    generate_refused(lumina, expected=[expected.format(copied)])


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.file),)


def test_code_in_a_pickle_is_not_run(lumina: CommandLine, tmp_path: Path, picture: Path) -> None:
    path, trap = tmp_path / "trap.ckpt", tmp_path / "sprung"
    path.write_bytes(pickle.dumps({"state_dict": Trap(trap)}))
    torch.save({"state_dict": Trap(trap)}, tmp_path / "zipped.ckpt")
    for file in (path, tmp_path / "zipped.ckpt"):
        generate_refused(lumina, "--movqgan", file, expected=[str(file), "it may hold code, which is never run"])
        assert not trap.exists()


def test_other_pickles(lumina: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    for content, expected in (([1, 2], "expected a dict"), ({"a": torch.zeros(1)}, "is not a MoVQGAN")):
        torch.save(content, path)
        generate_refused(lumina, "--movqgan", path, expected=[expected])
    path.write_text("no pickle")
    generate_refused(lumina, "--movqgan", path, expected=[str(path)])


@pytest.mark.parametrize("spoil", [without_shard, without_special_token])
def test_info_of_a_bad_checkpoint(lumina: CommandLine, copied: Path, spoil: Callable[[Path], None]) -> None:
    spoil(copied)
    refused(lumina, "info", "--checkpoint", copied, expected=[str(copied)])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--width", 0), "expected positive multiples of 32"),
        (("--height", 33), "expected positive multiples of 32"),
        (("--width", 4096, "--height", 4096), "sides of at most 256"),
        (("--batch", 0), "batch is 0"),
        (("--window", 0), "window is 0"),
        (("--window", 100), "window is 100; expected at most 19"),
    ],
)
def test_info_of_what_cannot_be_drawn(lumina: CommandLine, options: tuple[object, ...], expected: str) -> None:
    refused(lumina, "info", "--checkpoint", lumina.checkpoint, *options, expected=[expected])


# Tokens and pictures


def with_token(position: int, token: object) -> Callable[[list[Any]], object]:
    return lambda tokens: {"tokens": [tokens[:position] + [token] + tokens[position + 1 :]]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(lambda tokens: [tokens], "is no JSON of tokens", id="list"),
        pytest.param(lambda tokens: {"token": [tokens]}, "is no JSON of tokens", id="other key"),
        pytest.param(lambda tokens: {"tokens": []}, "holds no lists of tokens", id="no pictures"),
        pytest.param(lambda tokens: {"tokens": tokens}, "holds no lists of tokens", id="a picture itself"),
        pytest.param(lambda tokens: {"tokens": [[]]}, "has 0 tokens", id="empty picture"),
        pytest.param(lambda tokens: {"tokens": [tokens[:-1]]}, "expected 24", id="one token short"),
        pytest.param(lambda tokens: {"tokens": [tokens, tokens + [1]]}, "expected 24", id="second one too long"),
        pytest.param(with_token(0, 7), "token 0 of the picture is 7", id="start"),
        pytest.param(with_token(1, "x"), "token 1 of the picture is 'x'", id="height"),
        pytest.param(with_token(3, 383), "token 3 of the picture is 383", id="no code"),
        pytest.param(with_token(4, 448), "token 4 of the picture is 448", id="code too large"),
        pytest.param(with_token(5, None), "token 5 of the picture is None", id="null"),
        pytest.param(with_token(6, 400.5), "token 6 of the picture is 400.5", id="fraction"),
        pytest.param(with_token(7, 400), "token 7 of the picture is 400", id="end of row"),
        pytest.param(with_token(23, 400), "token 23 of the picture is 400", id="end"),
    ],
)
def test_bad_tokens(lumina: CommandLine, content: Callable[[list[int]], object], expected: str) -> None:
    lumina.generate().succeeded()
    path = lumina.path("bad.json")
    path.write_text(json.dumps(content(lumina.tokens()[0])))
    refused(lumina, *decode(lumina, path), expected=[expected])


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"tokens": NaN}', "\xff"])
def test_tokens_that_are_no_json(lumina: CommandLine, text: str) -> None:
    path = lumina.path("bad.json")
    path.write_text(text, encoding="latin-1")
    refused(lumina, *decode(lumina, path), expected=[str(path)])


def test_tokens_that_cannot_be_read(lumina: CommandLine, tmp_path: Path) -> None:
    for path in (tmp_path / "absent.json", tmp_path):
        refused(lumina, *decode(lumina, path), expected=[f"cannot read {path}"])


def decode(lumina: CommandLine, tokens: Path) -> tuple[object, ...]:
    return ("decode", tokens, "--checkpoint", lumina.checkpoint, "--out", lumina.path("decoded.png"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--width", 33), "expected positive multiples of 32"),
        (("--height", 0), "expected positive multiples of 32"),
        (("--height", -32), "expected positive multiples of 32"),
        (("--width", 288), "the picture's width is 9 grid units; expected 1 to 8"),
        (("--width", 10**30), "grid units"),
    ],
)
def test_encode_to_a_size_that_has_no_tokens(
    lumina: CommandLine, picture: Path, options: tuple[object, ...], expected: str
) -> None:
    arguments = ("encode", picture, "--checkpoint", lumina.checkpoint, "--tokens-out", lumina.path("t.json"))
    refused(lumina, *arguments, *options, expected=[expected])


def test_encode_a_picture_that_has_no_tokens(lumina: CommandLine, picture: Path) -> None:
    Image.new("RGB", (320, 32)).save(picture)
    arguments = ("encode", picture, "--checkpoint", lumina.checkpoint, "--tokens-out", lumina.path("t.json"))
    refused(lumina, *arguments, expected=["the picture's width is 10 grid units"])


# Outputs


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ("{}/absent/o.png", "absent does not exist; make it first"),
        ("{}/o", "the suffix '' is no picture's; expected .png"),
        ("{}/o.txt", "the suffix '.txt' is no picture's"),
        ("{}/o.xbm", "the suffix '.xbm' is no picture's"),
        ("", "the suffix '' is no picture's"),
        ("{}", "the suffix '' is no picture's"),
        ("{}/folder_0.png", "it is a folder"),
        ("{}/file/o.png", "Not a directory"),
        pytest.param("/proc/o.png", "cannot write /proc/o", marks=NEEDS_PROC),
        ("{}/" + "a" * 300 + ".png", "File name too long"),
    ],
)
def test_pictures_that_cannot_be_written(lumina: CommandLine, out: str, expected: str) -> None:
    lumina.path("folder_0.png").mkdir()
    lumina.path("file").touch()
    before = tree(lumina.folder)
    assert expected in lumina.generate("--out", out.format(lumina.folder)).refusal()
    assert expected in lumina.generate("--out", out.format(lumina.folder).replace("_0", ""), "--batch", 2).refusal()
    assert tree(lumina.folder) == before


def tree(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize("option", ["--tokens-out", "--stats-out"])
def test_json_that_cannot_be_written(lumina: CommandLine, option: str) -> None:
    lumina.path("folder").mkdir()
    before = tree(lumina.folder)
    for name, expected in (("folder", "it is a folder"), ("absent/t.json", "make it first")):
        assert expected in lumina.generate(option, lumina.path(name)).refusal()
    assert tree(lumina.folder) == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in the file system here")
def test_a_device_is_never_replaced_by_a_file(lumina: CommandLine) -> None:
    os.mkfifo(lumina.path("pipe.png"))
    for option in ("--out", "--tokens-out"):
        assert "it is a folder or a device" in lumina.generate(option, lumina.path("pipe.png")).refusal()
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
    generate_refused(lumina, *(option.format(lumina.folder) for option in options), expected=[expected])


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


def test_full_disk_for_encode_and_decode(lumina: CommandLine, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lumina.generate().succeeded()
    monkeypatch.setattr(os, "replace", full_disk)
    refused(lumina, *decode(lumina, lumina.path("o.json")), expected=["decoded.png: No space left"])
    arguments = ("encode", picture, "--checkpoint", lumina.checkpoint, "--tokens-out", lumina.path("t.json"))
    refused(lumina, *arguments, expected=["t.json: No space left"])


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        pytest.param(generate_command, "load_transformer", id="loading"),
        pytest.param(generate_command._Progress, "update", id="drawing"),
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
    told = [] if prompt or name == "load_transformer" else ["WARNING: The prompt is empty: nothing but the size says"]
    *warnings, last = done.err.splitlines()
    assert last == "lumina_core: cancelled; nothing was written"
    assert [line[: len(words)] for line, words in zip(warnings, told, strict=True)] == told


def out_of_memory(*_: object, **__: object) -> None:
    raise MemoryError


def damaged(*_: object, **__: object) -> None:
    raise CheckpointError("several\nlines\tof  it")


def unreadable(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied", "model.safetensors")


@pytest.mark.parametrize(
    ("fail", "expected"),
    [
        (out_of_memory, "out of memory; ask for a smaller picture, --batch or --window"),
        (damaged, "several lines of it"),
        (unreadable, "cannot read or write model.safetensors: Permission denied"),
    ],
)
def test_errors_from_within_are_one_line(
    lumina: CommandLine, monkeypatch: pytest.MonkeyPatch, fail: Callable[..., None], expected: str
) -> None:
    monkeypatch.setattr(generate_command, "draw", fail)
    generate_refused(lumina, expected=[expected])


def test_what_is_no_fault_of_the_input_is_not_hidden(lumina: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate_command, "draw", lambda *_, **__: np.zeros(1)[2])
    with pytest.raises(IndexError):
        lumina.generate()
    assert lumina.files() == {}
