"""A command writes none of the files that it reads, under whatever name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lumina_core.errors import InputError
from lumina_core.files.output_files import check_not_inputs

from .cli_runs import CommandLine

EXPECTED = "it is one of the inputs; expected another name"
JSON_FILES = ("config.json", "tokenizer.json", "model.safetensors.index.json")


@pytest.fixture
def own(lumina: CommandLine, tmp_path: Path) -> CommandLine:
    """The command line on a copy of the checkpoint, so that a test may lose it."""
    lumina.checkpoint = Path(shutil.copytree(lumina.checkpoint, lumina.folder / "copy"))
    return lumina


def refuses(lumina: CommandLine, *arguments: object) -> None:
    lumina.refuses(*arguments, expected=EXPECTED)


@pytest.mark.parametrize("option", ["--tokens-out", "--stats-out"])
def test_generate_writes_no_file_of_the_checkpoint(own: CommandLine, option: str) -> None:
    names = [path.name for path in own.checkpoint.iterdir()]
    assert set(JSON_FILES) <= set(names) and "movqgan.safetensors" in names
    for name in names:
        own.refuses_to_generate(option, own.checkpoint / name, expected=EXPECTED)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "movqgan.safetensors"])
def test_encode_writes_no_file_of_the_checkpoint(own: CommandLine, noise: Path, name: str) -> None:
    refuses(own, "encode", noise, "--checkpoint", own.checkpoint, "--tokens-out", own.checkpoint / name)


def test_a_converted_file_is_not_written(own: CommandLine, noise: Path) -> None:
    whole = own.path("whole.safetensors")
    assert own.run("convert", "--checkpoint", own.checkpoint, "--weights", "bf16", "--out", whole).code == 0
    refuses(own, "encode", noise, "--checkpoint", whole, "--tokens-out", whole)
    own.refuses_to_generate("--checkpoint", whole, "--stats-out", whole, expected=EXPECTED)


def test_a_codec_named_apart_is_not_written(own: CommandLine, noise: Path) -> None:
    codec = own.path("codec.png")
    shutil.copy(own.checkpoint / "movqgan.safetensors", codec)
    own.refuses_to_generate("--movqgan", codec, "--out", codec, expected=EXPECTED)
    own.refuses_to_generate(
        "--movqgan", own.checkpoint, "--tokens-out", own.checkpoint / "movqgan.safetensors", expected=EXPECTED
    )
    tokens = own.path("o.json")
    own.generate().succeeded()
    refuses(own, "decode", tokens, "--checkpoint", own.checkpoint, "--movqgan", codec, "--out", codec)


def test_the_condition_and_the_picture_to_encode_are_not_written(own: CommandLine, noise: Path) -> None:
    picture = own.path("o.png")
    shutil.copy(noise, picture)
    own.refuses_to_generate("--task", "edit", "--height", 64, "--condition", picture, expected=EXPECTED)
    batch = ("--batch", 2, "--out", own.path("p.png"))
    shutil.copy(noise, own.path("p_1.png"))
    own.refuses_to_generate(
        "--task", "edit", "--height", 64, *batch, "--condition", own.path("p_1.png"), expected=EXPECTED
    )
    refuses(own, "encode", picture, "--checkpoint", own.checkpoint, "--tokens-out", picture)


def test_tokens_that_are_read_are_not_written(own: CommandLine) -> None:
    own.generate("--height", 64, name="kept").succeeded()
    kept = own.path("kept.json")
    own.refuses_to_generate(
        "--height", 64, "--condition", kept, "--given-height", 8, "--tokens-out", kept, expected=EXPECTED
    )
    as_picture = own.path("tokens.png")
    kept.rename(as_picture)
    refuses(own, "decode", as_picture, "--checkpoint", own.checkpoint, "--out", as_picture)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "movqgan.safetensors"])
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_convert_writes_no_link_to_what_it_reads(own: CommandLine, link: Callable[..., None], name: str) -> None:
    try:
        link(own.checkpoint / name, own.path("out.safetensors"))
    except OSError:
        pytest.skip("links cannot be made here")
    out = ("--weights", "bf16", "--out", own.path("out.safetensors"))
    refuses(own, "convert", "--checkpoint", own.checkpoint, *out)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_links_to_an_input_are_not_written(own: CommandLine, noise: Path, link: Callable[..., None]) -> None:
    try:
        link(own.checkpoint / "config.json", own.path("other.json"))
        link(noise, own.path("o.png"))
    except OSError:
        pytest.skip("links cannot be made here")
    own.refuses_to_generate("--tokens-out", own.path("other.json"), expected=EXPECTED)
    own.refuses_to_generate("--condition", noise, "--given-height", 8, expected=EXPECTED)


def test_files_that_are_not_read_may_be_written(own: CommandLine, noise: Path) -> None:
    own.path("o.png").write_text("old")
    own.generate("--condition", noise, "--given-height", 8, "--stats-out", own.checkpoint / "stats.json").succeeded()


def test_files_that_do_not_exist_are_told_apart_by_name(tmp_path: Path) -> None:
    check_not_inputs([tmp_path / "a", None], [tmp_path / "b", None])
    with pytest.raises(InputError, match="is one of the inputs"):
        check_not_inputs([tmp_path / "x" / ".." / "a"], [tmp_path / "a"])
