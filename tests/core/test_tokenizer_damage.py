"""Damaged tokenizer files end in one line that names the file; what only looks unusual is read."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lumina_core.checkpoint.find import load_tokenizer
from lumina_core.errors import CheckpointError, InputError
from lumina_core.tokens.tokenizer import END_OF_TURN, IMAGE_END, IMAGE_START

from .tokenizer_files import END_OF_TEXT, OF_THE_MODEL, save_tokenizer, small_tokenizer

FILES = ("tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json")
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tokenizer(small_tokenizer(), tmp_path / "tokenizer")


def change(file: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(file.read_text(encoding="utf-8"))
    edit(values)
    file.write_text(json.dumps(values), encoding="utf-8")


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_tokenizer(folder)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return message


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (LFS.encode(), "Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"", "empty"),
        (b"\0" * 100, "zeros"),
        (b"GGUF\3\0\0\0", "GGUF"),
        (b'{"half', None),
        (b'{"a": ' + b"[" * 100_000, None),
        (b'{"a": "\\ud800"}', None),
        (b'{"a": NaN}', None),
        (b"[1]", None),
        (b'{"a": "\xff"}', None),
    ],
    ids=["lfs", "html", "empty", "zeros", "gguf", "cut", "deep", "surrogate", "nan", "list", "latin"],
)
def test_another_kind_of_file_is_named(folder: Path, name: str, content: bytes, expected: str | None) -> None:
    (folder / name).write_bytes(content)
    message = refused(folder)
    assert name in message and (expected is None or expected in message)


@pytest.mark.parametrize("name", FILES[:2])
def test_byte_order_mark_is_read(folder: Path, name: str) -> None:
    plain = load_tokenizer(folder).encode_prompt("a red square")
    (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    assert load_tokenizer(folder).encode_prompt("a red square") == plain


@pytest.mark.parametrize("changed", [str.upper, str.title])
def test_names_of_files_in_capitals_are_found(folder: Path, changed: Callable[[str], str]) -> None:
    plain = load_tokenizer(folder).encode_prompt("a red square")
    for name in FILES[:2]:
        (folder / name).rename(folder / changed(name))
    assert load_tokenizer(folder).encode_prompt("a red square") == plain


def test_folder_in_place_of_a_file_is_named(folder: Path) -> None:
    (folder / "added_tokens.json").mkdir()
    assert "added_tokens.json is a folder" in refused(folder)


@pytest.mark.parametrize("value", [-1, 2**32, 10**400, 1.5, True, None, "5", [5]])
def test_bad_id_of_an_added_token_is_named(folder: Path, value: object) -> None:
    (folder / "added_tokens.json").write_text(json.dumps({"<more>": value}))
    message = refused(folder)
    assert "added_tokens.json" in message and "<more>" in message


@pytest.mark.parametrize("decoder", [[], [1], {"x": {"content": "a"}}, {"-1": {"content": "a"}}, {"5": "a"}, {"5": {}}])
def test_damaged_list_of_tokens_in_the_config_is_named(folder: Path, decoder: object) -> None:
    change(folder / "tokenizer_config.json", lambda values: values.update(added_tokens_decoder=decoder))
    if decoder:
        assert "tokenizer_config.json" in refused(folder)
    else:
        load_tokenizer(folder)


@pytest.mark.parametrize("value", [-1, 2**32, 1.5, None])
def test_bad_id_in_the_tokenizer_itself_is_named(folder: Path, value: object) -> None:
    change(folder / "tokenizer.json", lambda values: values["added_tokens"][1].update(id=value))
    assert "tokenizer.json is not a tokenizer" in refused(folder)


def test_special_token_with_the_id_of_a_text_token_is_refused(folder: Path) -> None:
    change(folder / "tokenizer.json", lambda values: values["added_tokens"][1].update(id=5))
    assert f"{IMAGE_START} has the id 5" in refused(folder)


def test_ids_of_the_file_count_where_the_library_numbers_anew(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The library numbers added tokens by their places: one fewer, and all others would shift."""
    plain = load_tokenizer(folder)
    change(folder / "tokenizer.json", lambda values: values["added_tokens"].pop())
    change(folder / "tokenizer.json", lambda values: values["added_tokens"].insert(0, values["added_tokens"].pop()))
    with caplog.at_level(logging.WARNING):
        shifted = load_tokenizer(folder)
    assert "by its place in the list" in caplog.text
    assert {name: shifted.token_id(name) for name in OF_THE_MODEL[:-1]} == {
        name: plain.token_id(name) for name in OF_THE_MODEL[:-1]
    }


def test_files_that_give_a_token_two_ids_are_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "added_tokens.json").write_text(json.dumps({END_OF_TURN: 900}))
    with caplog.at_level(logging.WARNING):
        tokenizer = load_tokenizer(folder)
    assert tokenizer.token_id(END_OF_TURN) != 900
    assert "added_tokens.json" in caplog.text and "900" in caplog.text


@pytest.mark.parametrize("name", [IMAGE_END, "<reserved08802>"])
def test_files_that_give_a_token_of_pictures_two_ids_are_refused(folder: Path, name: str) -> None:
    (folder / "added_tokens.json").write_text(json.dumps({name: 900}))
    assert f"gives {name} the id" in refused(folder)


def test_panic_of_the_library_is_one_line(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change(
        folder / "tokenizer.json", lambda values: values["model"].update(continuing_subword_prefix="more than a token")
    )
    assert "tokenizer.json is not a tokenizer" in refused(folder)
    assert capfd.readouterr().err == ""


def test_random_ids_are_refused(folder: Path) -> None:
    change(folder / "tokenizer.json", lambda values: values["model"].update(dropout=0.5))
    assert "dropout is 0.5" in refused(folder)


def test_special_token_within_the_text_vocabulary_is_not_typed(folder: Path) -> None:
    """With `ignore_merges` a whole word is one token, a special one too."""

    def with_names_in_the_vocabulary(values: dict[str, Any]) -> None:
        values["model"]["vocab"].update({token["content"]: token["id"] for token in values["added_tokens"]})
        values["model"]["ignore_merges"] = True
        words = {"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated", "invert": False}
        letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        values["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [words, letters]}

    change(folder / "tokenizer.json", with_names_in_the_vocabulary)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.bos == END_OF_TEXT
    with pytest.raises(InputError, match=f"the special token {IMAGE_END}"):
        tokenizer.encode_prompt(f"a {IMAGE_END} b")
