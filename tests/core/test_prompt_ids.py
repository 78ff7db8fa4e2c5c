"""Ids of a prompt: special tokens in the template become their ids, what a user typed stays text."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as LibraryTokenizer

from lumina_core.checkpoint.find import load_tokenizer
from lumina_core.tokens.prompt_text import PromptText
from lumina_core.tokens.prompts import MAPS, TASKS, build_prompt
from lumina_core.tokens.tokenizer import END_OF_TURN, Tokenizer

from .tokenizer_files import END_OF_TEXT, OF_THE_MODEL, published_names, save_tokenizer, small_tokenizer

IN_TEMPLATES = ("<upper half>", "<lower half>", *(f"<{name}>" for name in MAPS.values()))
TYPED = ("a red square", "", " two  spaces\n", "x.", "<", ">", "half>", "depth map>", "é e\u0301", "\u0301", "🐈 \0 \t")
INPUTS = {"map": "depth", "object": "a red mug"}

Pair = tuple[Tokenizer, LibraryTokenizer]


@pytest.fixture
def both(tmp_path: Path) -> Callable[..., Pair]:
    """Makes a tokenizer with more added tokens, as ours and as the library's."""

    def make(*added: str | AddedToken, without: str = "") -> Pair:
        names = [name for name in OF_THE_MODEL if name != without]
        folder = save_tokenizer(small_tokenizer([*names, *added]), tmp_path / "tokenizer")
        return load_tokenizer(folder), LibraryTokenizer.from_file(str(folder / "tokenizer.json"))

    return make


def library_ids(whole: LibraryTokenizer, text: str) -> list[int]:
    """What the published program makes of a text: bos, then the text and the end of turn, encoded at once."""
    return [whole.token_to_id(END_OF_TEXT), *whole.encode(text + END_OF_TURN, add_special_tokens=False).ids]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("typed", TYPED)
def test_template_and_text_are_encoded_as_the_library_encodes_the_whole(both, task: str, typed: str) -> None:
    tokenizer, whole = both(*IN_TEMPLATES)
    prompt = build_prompt(task, 64, 128, typed or "x", **INPUTS)
    ids = tokenizer.encode_prompt(prompt)
    assert ids == library_ids(whole, str(prompt))
    assert (whole.token_to_id("<upper half>") in ids) is (task != "t2i")


@pytest.mark.parametrize("task", TASKS)
def test_ids_without_such_tokens_are_those_of_the_plain_text(both, task: str) -> None:
    """The pieces of BPE at the borders between template and text are those of the whole text."""
    tokenizer, whole = both()
    for typed in TYPED:
        prompt = build_prompt(task, 64, 128, typed or "x", **INPUTS)
        assert tokenizer.encode_prompt(prompt) == tokenizer.encode_prompt(str(prompt)) == library_ids(whole, prompt)


def test_plain_string_has_no_special_tokens(both) -> None:
    tokenizer, whole = both(*IN_TEMPLATES)
    prompt = build_prompt("pair", 64, 128, "x", "depth")
    assert not {whole.token_to_id(name) for name in IN_TEMPLATES} & set(tokenizer.encode_prompt(str(prompt)))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", [*IN_TEMPLATES, *OF_THE_MODEL[:6], "depth map", "red"])
def test_typed_names_stay_text(both, task: str, name: str) -> None:
    """The special tokens of a prompt are those of the same prompt without the name."""
    tokenizer, _ = both(*IN_TEMPLATES, "depth map", "red")
    ids = tokenizer.encode_prompt(build_prompt(task, 64, 128, f"a {name}b{name}", "canny", name))
    harmless = tokenizer.encode_prompt(build_prompt(task, 64, 128, "y", "canny", "y"))
    special = set(tokenizer.special_ids.values())
    assert [token for token in ids if token in special] == [token for token in harmless if token in special]


@pytest.mark.parametrize("typed", ["depth map", "depth map>", "<depth map", "depth", " map>"])
def test_text_and_template_together_spell_no_special_token(both, typed: str) -> None:
    tokenizer, whole = both("<depth map>")
    for template in ("{width}{height}<{prompt}>", "{width}{height}<{prompt}", "{width}{height}<depth{prompt}"):
        ids = tokenizer.encode_prompt(build_prompt("t2i", 64, 64, typed, template=template))
        assert whole.token_to_id("<depth map>") not in ids


def test_size_and_kind_of_map_are_template(both) -> None:
    tokenizer, whole = both("64x128", "<pose estimation map>")
    ids = tokenizer.encode_prompt(build_prompt("pair", 64, 128, "64x128", "pose"))
    assert ids.count(whole.token_to_id("64x128")) == 1
    assert ids.count(whole.token_to_id("<pose estimation map>")) == 1


def test_own_template_of_a_user_is_template(both) -> None:
    tokenizer, whole = both("<quality>")
    template = "<quality>{width}x{height}: {prompt}"
    prompt = build_prompt("t2i", 64, 64, "<quality>", template=template)
    assert tokenizer.encode_prompt(prompt).count(whole.token_to_id("<quality>")) == 1


@pytest.mark.parametrize("seed", range(40))
def test_any_added_tokens_are_found_as_the_library_finds_them(both, seed: int) -> None:
    """Overlapping names and every flag of an added token, next to typed words, symbols, spaces and line ends."""
    rng = random.Random(seed)
    alphabet, flags = ["<a>", "<a", "a>", "ab", "b", " ", "a b", "<", "é", "\n"], ("single_word", "lstrip", "rstrip")
    names = {"".join(rng.choices(alphabet, k=rng.randint(1, 3))) for _ in range(6)}
    added = [
        AddedToken(name, normalized=rng.random() < 0.5, special=True, **{flag: rng.random() < 0.3 for flag in flags})
        for name in sorted(names)
    ]
    tokenizer, whole = both(*added)
    for _ in range(40):
        typed = rng.choices(["", "X", "X\tY", ".", "\t.", "Q\t", "\t\tQ", "\u4e00"], k=3)
        template = ["".join(rng.choices(alphabet, k=rng.randint(0, 4))) for _ in range(4)]
        pieces = [(template[0], False)]
        for one, other in zip(typed, template[1:], strict=True):
            pieces += [(one, True), (other, False)]
        prompt = PromptText.of(pieces)
        assert tokenizer.encode_prompt(prompt) == library_ids(whole, str(prompt)), repr(prompt)


def test_longest_token_inside_the_template_counts(both) -> None:
    """A longer one that takes in what a user typed hides no shorter one of the template."""
    tokenizer, whole = both("<a>", "<a>b")
    prompt = PromptText.of([("<a>", False), ("b", True)])
    assert tokenizer.encode_prompt(prompt)[1] == whole.token_to_id("<a>")
    assert tokenizer.encode_prompt(PromptText.of([("<a>b", False)]))[1] == whole.token_to_id("<a>b")


@pytest.mark.parametrize("text", ["a red square", "a red square.", "a <", "", "half>\n"])
def test_end_of_turn_that_is_no_added_token_is_text(both, caplog, text: str) -> None:
    with caplog.at_level(logging.WARNING):
        tokenizer, whole = both(without=END_OF_TURN)
    assert END_OF_TURN in caplog.text and "as text" in caplog.text
    assert tokenizer.end_of_turn_id is None
    ids = tokenizer.encode_prompt(PromptText.of([("Draw: ", False), (text, True)]))
    assert ids == library_ids(whole, "Draw: " + text)


def test_end_of_turn_in_the_text_vocabulary_only_is_text(both, tmp_path: Path) -> None:
    """The published program encodes the name within the prompt, so that only an added token becomes one id."""
    both(without=END_OF_TURN)
    file = tmp_path / "tokenizer" / "tokenizer.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    values["model"]["vocab"][END_OF_TURN] = 9999
    file.write_text(json.dumps(values), encoding="utf-8")
    whole = LibraryTokenizer.from_file(str(file))
    assert load_tokenizer(file).encode_prompt("a red")[1:] == library_ids(whole, "a red")[1:]


def test_end_of_turn_that_is_an_added_token_is_not_logged(both, caplog) -> None:
    with caplog.at_level(logging.INFO):
        tokenizer, _ = both()
    assert not caplog.text
    assert tokenizer.encode_prompt("x")[-1] == tokenizer.end_of_turn_id


def test_tokenizer_of_the_published_form(tmp_path: Path) -> None:
    """All of 19,700 added tokens are in tokenizer.json, and in no other file."""
    names = list(published_names())
    whole = small_tokenizer([*names, *IN_TEMPLATES])
    folder = save_tokenizer(whole, tmp_path / "published")
    start = time.perf_counter()
    tokenizer = load_tokenizer(folder)
    seconds = time.perf_counter() - start
    assert len(names) > 19_600 and seconds < 5
    assert all(tokenizer.token_id(name) == whole.token_to_id(name) for name in names)
    prompt = build_prompt("pair", 512, 1024, "a red square", "depth")
    assert tokenizer.encode_prompt(prompt) == library_ids(whole, str(prompt))
    typed = build_prompt("t2i", 512, 512, names[-1] + names[5000])
    assert not {whole.token_to_id(names[-1]), whole.token_to_id(names[5000])} & set(tokenizer.encode_prompt(typed))


@pytest.mark.parametrize("unit", ["a red square ", "\0"])
def test_prompt_of_a_megabyte_is_encoded_in_seconds(both, unit: str) -> None:
    tokenizer, _ = both(*IN_TEMPLATES)
    text = unit * (1_000_000 // len(unit))
    start = time.perf_counter()
    ids = tokenizer.encode_prompt(build_prompt("t2i", 64, 64, text))
    assert time.perf_counter() - start < 20
    assert len(ids) > 1000
