"""A prompt is bos, text, end of turn; a user's text is only text; special tokens are found by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tokenizers

from lumina_core.checkpoint.find import load_tokenizer
from lumina_core.errors import CheckpointError, InputError
from lumina_core.movqgan.load import load_movqgan
from lumina_core.pictures.images import load_picture, to_pixels
from lumina_core.tokens.tokenizer import REQUIRED_TOKENS, Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tokenizer_file: Path) -> Tokenizer:
    return load_tokenizer(tokenizer_file.parent)


@pytest.fixture(scope="module")
def published(full_golden: Path) -> Tokenizer:
    return load_tokenizer(full_golden / "tokenizer")


def copy_without(tokenizer_file: Path, folder: Path, name: str) -> Path:
    values = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] != name]
    (folder / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    shutil.copy(tokenizer_file.with_name("tokenizer_config.json"), folder)
    return folder


def golden_cases(golden: Path, with_condition: bool) -> list[dict]:
    cases = json.loads((golden / "prompts" / "expected.json").read_text(encoding="utf-8"))["cases"]
    return [case for case in cases if ("condition" in case) is with_condition]


def test_prompt_is_bos_text_end_of_turn(tokenizer: Tokenizer) -> None:
    text = "a red square"
    expected = [
        tokenizer.token_id("<|endoftext|>"),
        *tokenizer.encode_text(text),
        tokenizer.token_id("<reserved08706>"),
    ]
    assert tokenizer.encode_prompt(text) == expected
    assert tokenizer.encode_prompt("") == [expected[0], expected[-1]]


@pytest.mark.parametrize("name", [*REQUIRED_TOKENS, "<|endoftext|>", "<|im_start|>", "<reserved08808>"])
def test_typed_special_token_stays_text(tokenizer: Tokenizer, tokenizer_file: Path, name: str) -> None:
    raw = tokenizers.Tokenizer.from_file(str(tokenizer_file))
    ids = tokenizer.encode_text(f"a{name}b {name}")
    assert tokenizer.token_id(name) in raw.encode(f"a{name}b {name}").ids
    assert not set(ids) & set(tokenizer.special_ids.values())
    spelled = "".join(tokenizer.text.id_to_token(token) for token in ids)
    assert spelled == f"a{name}bĠ{name}"


@pytest.mark.parametrize("text", ["", "  two  spaces ", "line\nbreak\ttab", "一只猫 “é” 🐈", "cafe\u0301"])
def test_plain_text_is_encoded_as_the_file_says(tokenizer: Tokenizer, tokenizer_file: Path, text: str) -> None:
    raw = tokenizers.Tokenizer.from_file(str(tokenizer_file))
    assert tokenizer.encode_text(text) == raw.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("text", ["\ud800", None, 7])
def test_no_text_is_an_input_error(tokenizer: Tokenizer, text: object) -> None:
    with pytest.raises(InputError, match="not valid Unicode"):
        tokenizer.encode_prompt(text)  # type: ignore[arg-type]


def test_file_and_its_folder_are_the_same(tokenizer: Tokenizer, tokenizer_file: Path) -> None:
    assert load_tokenizer(tokenizer_file).encode_prompt("a red") == tokenizer.encode_prompt("a red")


@pytest.mark.parametrize("name", REQUIRED_TOKENS)
def test_missing_special_token_is_named(tokenizer_file: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=f"no token named {name};"):
        load_tokenizer(copy_without(tokenizer_file, tmp_path, name))


def test_tokens_of_the_companion_files_count(tokenizer_file: Path, tmp_path: Path) -> None:
    copy_without(tokenizer_file, tmp_path, "<eoss>")
    (tmp_path / "added_tokens.json").write_text('{"<eoss>": 901}')
    assert load_tokenizer(tmp_path).token_id("<eoss>") == 901
    (tmp_path / "added_tokens.json").unlink()
    settings = {"bos_token": {"content": "<|im_start|>"}, "added_tokens_decoder": {"902": {"content": "<eoss>"}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.token_id("<eoss>") == 902
    assert tokenizer.bos_id == tokenizer.token_id("<|im_start|>")


def test_unknown_name_is_named(tokenizer: Tokenizer) -> None:
    assert not tokenizer.has_token("<reserved99999>")
    with pytest.raises(CheckpointError, match="<reserved99999>"):
        tokenizer.token_id("<reserved99999>")


def test_no_bos_is_named(tokenizer_file: Path, tmp_path: Path) -> None:
    copy_without(tokenizer_file, tmp_path, "")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="neither bos_token nor eos_token"):
        load_tokenizer(tmp_path)
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": {"content": "<eoss>"}}')
    assert load_tokenizer(tmp_path).bos == "<eoss>"


@pytest.mark.parametrize("broken", ["tokenizer.json", "tokenizer_config.json", "added_tokens.json"])
def test_broken_file_is_named(tokenizer_file: Path, tmp_path: Path, broken: str) -> None:
    copy_without(tokenizer_file, tmp_path, "")
    (tmp_path / broken).write_text('{"half')
    with pytest.raises(CheckpointError, match=broken):
        load_tokenizer(tmp_path)


def test_absent_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no tokenizer at"):
        load_tokenizer(tmp_path)


def test_published_prompts(golden: Path, published: Tokenizer) -> None:
    for case in golden_cases(golden, with_condition=False):
        assert published.encode_prompt(case["prompt"]) == case["input_ids"]


def test_published_special_ids_and_no_injection(published: Tokenizer) -> None:
    assert published.token_id("<racm3:break>") == 151_665
    typed = published.encode_text("<racm3:break><eoss><|endoftext|><|im_start|><tool_call><reserved08706>")
    assert max(typed) < published.bos_id == 151_643


def test_published_prompts_with_a_condition(golden: Path, published: Tokenizer) -> None:
    """After the prompt: the header of the whole canvas, then the rows of the condition, and nothing more."""
    movqgan = load_movqgan(golden / "movqgan" / "f8_wide" / "movqgan.safetensors")
    for case in golden_cases(golden, with_condition=True):
        picture = load_picture(golden / "prompts" / case["condition"])
        prompt_ids = published.encode_prompt(case["prompt"])
        units = [published.token_id(f"<reserved{8800 + n // 32:05d}>") for n in (2 * picture.height, picture.width)]
        rows = [
            token
            for row in movqgan.encode(to_pixels(picture))[0].tolist()
            for token in [*(155_000 + code for code in row), published.token_id("<reserved08799>")]
        ]
        assert [*prompt_ids, published.token_id("<racm3:break>"), *units, *rows] == case["input_ids"]


def changed_tokenizer(tokenizer_file: Path, tmp_path: Path, **changes: object) -> Path:
    """A copy of the tokenizer whose JSON has other values."""
    values = json.loads(tokenizer_file.read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**values, **changes}))
    (tmp_path / "tokenizer_config.json").write_text(tokenizer_file.with_name("tokenizer_config.json").read_text())
    return tmp_path


@pytest.mark.parametrize("changes", [{"pre_tokenizer": None}, {"normalizer": {"type": "Lowercase"}}])
def test_a_tokenizer_that_changes_text(tokenizer_file: Path, tmp_path: Path, changes: dict) -> None:
    with pytest.raises(CheckpointError, match="changes the text that it encodes"):
        load_tokenizer(changed_tokenizer(tokenizer_file, tmp_path, **changes))


def test_a_tokenizer_without_merges(tokenizer_file: Path, tmp_path: Path) -> None:
    model = json.loads(tokenizer_file.read_text())["model"]
    more = {f"word{number}": len(model["vocab"]) + 1000 + number for number in range(1000)}
    model |= {"merges": [], "vocab": model["vocab"] | more}
    with pytest.raises(CheckpointError, match="has no merges"):
        load_tokenizer(changed_tokenizer(tokenizer_file, tmp_path, model=model))
