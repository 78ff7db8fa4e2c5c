"""What cannot be converted is refused in one line; no file is made or changed."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lumina_core import load_transformer
from lumina_core.checkpoint.find import open_checkpoint
from lumina_core.checkpoint.locate import INDEX
from lumina_core.checkpoint.tensor_writer import TensorWriter, lay_out
from lumina_core.checkpoint.tensors import TensorSpec
from lumina_core.errors import CheckpointError

from .checkpoints import SHARDS, save_movqgan
from .cli_runs import CommandLine

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def copied(lumina: CommandLine, tmp_path: Path) -> Path:
    """The checkpoint that the commands use, in a copy that may be changed."""
    lumina.checkpoint = Path(shutil.copytree(lumina.checkpoint, tmp_path / "copied"))
    return lumina.checkpoint


def convert(lumina: CommandLine, *options: object, name: str = "c.safetensors") -> tuple[object, ...]:
    out = lumina.path(name)
    return ("convert", "--checkpoint", lumina.checkpoint, "--weights", "int4", "--out", out, *options)


def refused(lumina: CommandLine, *arguments: object) -> str:
    """The line that a command says; asserts that it leaves the folder as it was."""
    before = lumina.files()
    line = lumina.run(*arguments).refusal()
    assert lumina.files() == before
    return line


def rewrite_plain(shard: Path, name: str, tensor: Tensor) -> None:
    save_file({**{other: kept.clone() for other, kept in load_file(shard).items()}, name: tensor}, shard)


def test_numbers_that_are_none_stop_loading(copied: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    shard = copied / json.loads((copied / INDEX).read_text())["weight_map"][name]
    rewrite_plain(shard, name, torch.full((64, 32), float("nan")))
    with pytest.raises(CheckpointError, match=f"`{name}` holds NaN or infinite values"):
        load_transformer(copied, weights="int8")


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_converted_once_is_converted(lumina: CommandLine, whole: Path, weights: str) -> None:
    line = refused(lumina, *convert(lumina, "--checkpoint", whole, "--weights", weights))
    assert f"{whole} is converted to int4 already" in line


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--weights", "fp32"), "invalid choice: 'fp32'"),
        (("--checkpoint", "absent"), "checkpoint absent does not exist"),
        (("--movqgan", "absent.ckpt"), "absent.ckpt is missing"),
        (("--out", "{}/c.bin"), "the suffix is '.bin'; expected .safetensors"),
        (("--out", "{}/absent/c.safetensors"), "absent does not exist; create it first"),
        (("--out", "{}"), "it is a folder"),
    ],
)
def test_options_out_of_range(lumina: CommandLine, options: tuple[str, ...], expected: str) -> None:
    assert expected in refused(lumina, *convert(lumina, *(option.format(lumina.folder) for option in options)))


def test_incomplete_command(lumina: CommandLine) -> None:
    assert "--checkpoint, --weights, --out" in refused(lumina, "convert")


@pytest.mark.parametrize("name", [SHARDS[0], "movqgan.safetensors"])
def test_a_source_is_never_overwritten(lumina: CommandLine, copied: Path, tmp_path: Path, name: str) -> None:
    before = (copied / name).read_bytes()
    link = tmp_path / "link.safetensors"
    link.symlink_to(copied / name)
    for out in (copied / name, link):
        assert "one of the inputs" in refused(lumina, *convert(lumina, "--out", out))
    assert (copied / name).read_bytes() == before


@pytest.mark.parametrize(
    ("corrupt", "expected"),
    [
        (lambda folder: (folder / SHARDS[1]).unlink(), "shards missing"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "there is no tokenizer"),
        (lambda folder: (folder / "config.json").write_text("{"), "is not valid JSON"),
        (lambda folder: save_movqgan(folder / "movqgan.safetensors", codebook_size=32), "has 32 codes of 8 pixels"),
        (lambda folder: save_file({"x": torch.ones(1)}, folder / "movqgan.safetensors"), "is not a MoVQGAN"),
        (lambda folder: rewrite_plain(folder / SHARDS[1], "extra", torch.ones(1)), "unexpected `extra`"),
    ],
)
def test_bad_checkpoint(lumina: CommandLine, copied: Path, corrupt: Callable[[Path], object], expected: str) -> None:
    corrupt(copied)
    assert expected in refused(lumina, *convert(lumina))


def test_whole_numbers_instead_of_weights(lumina: CommandLine, copied: Path) -> None:
    shard = copied / json.loads((copied / INDEX).read_text())["weight_map"]["model.norm.weight"]
    rewrite_plain(shard, "model.norm.weight", torch.ones(32, dtype=torch.int64))
    expected = "`model.norm.weight` holds I64, expected one of F32, F16, BF16"
    assert expected in refused(lumina, *convert(lumina))
    assert expected in lumina.generate().refusal()


def test_numbers_that_are_none_leave_no_file(lumina: CommandLine, copied: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    shard = copied / json.loads((copied / INDEX).read_text())["weight_map"][name]
    rewrite_plain(shard, name, torch.full((64, 32), float("inf")))
    lumina.path("c.safetensors").write_text("old")
    assert f"`{name}` holds NaN or infinite values" in refused(lumina, *convert(lumina))


def test_too_little_room_is_noticed_before_the_work(lumina: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TensorWriter, "put", lambda *_: pytest.fail("the work began"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**6, 10**6 - 1000, 1000))
    line = refused(lumina, *convert(lumina))
    assert f"cannot write {lumina.path('c.safetensors')}: it takes" in line and "1,000 are free" in line


@pytest.mark.parametrize("calls", [0, 1, 25])
def test_full_disk_on_the_way(lumina: CommandLine, monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    put, count = TensorWriter.put, 0

    def put_until_full(writer: TensorWriter, name: str, tensor: Tensor) -> None:
        nonlocal count
        count += 1
        if count > calls:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        put(writer, name, tensor)

    monkeypatch.setattr(TensorWriter, "put", put_until_full)
    lumina.path("c.safetensors").write_text("old")
    assert "c.safetensors: No space left on device" in refused(lumina, *convert(lumina))


def test_full_disk_that_is_reported_late(lumina: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system may take every write and complain when the bytes have to be there."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    lumina.path("c.safetensors").write_text("old")
    assert "c.safetensors: No space left on device" in refused(lumina, *convert(lumina))


def test_file_that_cannot_be_removed_does_not_hide_the_error(
    lumina: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(TensorWriter, "put", fail)
    monkeypatch.setattr("lumina_core.files.output_files.os.unlink", refuse)
    assert "c.safetensors: Input/output error" in lumina.run(*convert(lumina)).refusal()


def test_interrupt_leaves_no_file(lumina: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TensorWriter, "finish", interrupt)
    done = lumina.run(*convert(lumina))
    assert (done.code, lumina.files()) == (130, {})


def test_a_file_is_replaced_when_the_new_one_is_whole(lumina: CommandLine) -> None:
    lumina.path("c.safetensors").write_text("old")
    lumina.run(*convert(lumina)).succeeded()
    assert open_checkpoint(lumina.path("c.safetensors")).scheme == "int4" and list(lumina.files()) == ["c.safetensors"]


def test_header_that_readers_would_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lumina_core.checkpoint.tensor_writer.MAX_HEADER_BYTES", 100)
    with pytest.raises(CheckpointError, match=r"make a header of .* bytes; expected at most 100"):
        lay_out({"a": TensorSpec("F32", (1,))}, {"tokenizer": "x" * 100})
