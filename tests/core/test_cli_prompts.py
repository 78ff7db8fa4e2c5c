"""Prompts through the command line: unusual tokenizers draw, damaged ones end in one line before any work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lumina_core.tokens.tokenizer import END_OF_TURN, IMAGE_END

from .cli_runs import CommandLine

PAIR = ("--task", "pair", "--map", "depth", "--height", "64")


@pytest.fixture
def changed(lumina: CommandLine, checkpoint: Path, tmp_path: Path) -> Callable[..., CommandLine]:
    """The command line on a copy of the small checkpoint with one JSON file changed."""

    def change(name: str, edit: Callable[[dict[str, Any]], object]) -> CommandLine:
        lumina.checkpoint = shutil.copytree(checkpoint, tmp_path / "changed")
        file = lumina.checkpoint / name
        values = json.loads(file.read_text(encoding="utf-8"))
        edit(values)
        file.write_text(json.dumps(values), encoding="utf-8")
        return lumina

    return change


def with_token(name: str, token_id: int) -> Callable[[dict[str, Any]], object]:
    return lambda values: values.update(added_tokens_decoder={str(token_id): {"content": name, "special": True}})


def without_end_of_turn(values: dict[str, Any]) -> None:
    values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] != END_OF_TURN]


def test_checkpoint_without_an_end_of_turn_draws_and_says_so(changed) -> None:
    lumina = changed("tokenizer.json", without_end_of_turn)
    outcome = lumina.generate()
    assert outcome.code == 0 and f"no added token {END_OF_TURN}" in outcome.err
    assert lumina.vocabulary.parse_picture(lumina.tokens()[0]).shape == (4, 4)


def test_special_token_of_the_template_draws_another_picture(changed) -> None:
    """It stands in the template of image pair and not in that of text to image."""
    lumina = changed("tokenizer_config.json", with_token("<depth map>", 350))
    special = lumina.generate(*PAIR, name="special"), lumina.generate(name="plain")
    assert [outcome.code for outcome in special] == [0, 0]
    pair, plain = lumina.tokens("special"), lumina.tokens("plain")
    (lumina.checkpoint / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    lumina.generate(*PAIR).succeeded()
    assert lumina.tokens() != pair
    lumina.generate().succeeded()
    assert lumina.tokens() == plain


def test_special_token_that_the_model_does_not_have_is_refused_where_it_is_used(changed) -> None:
    lumina = changed("tokenizer_config.json", with_token("<depth map>", 70_000))
    refusal = lumina.generate(*PAIR).refusal()
    assert "gives the prompt the id 70000; expected ids below vocab_size, 448" in refusal
    lumina.generate().succeeded()


def test_vocabulary_map_of_another_tokenizer_is_refused(changed) -> None:
    lumina = changed("config.json", lambda values: values.update(vocabulary_map={IMAGE_END: 3}))
    assert f"{IMAGE_END} has the id" in lumina.generate().refusal()


@pytest.mark.parametrize("damaged", [[1], {"<eoss>": "3"}, {"x": None}])
def test_damaged_vocabulary_map_is_refused(changed, damaged: object) -> None:
    lumina = changed("config.json", lambda values: values.update(vocabulary_map=damaged))
    assert "vocabulary_map in config.json" in lumina.generate().refusal()


def test_prompt_longer_than_the_context_is_refused_in_one_line(lumina: CommandLine) -> None:
    refusal = lumina.generate("--prompt", "a red square " * 80_000).refusal()
    assert "leaves no room for a picture" in refusal and len(refusal) < 300


def test_a_prompt_does_not_hold_ids_of_image_codes(changed) -> None:
    lumina = changed("tokenizer_config.json", with_token("<depth map>", 390))
    assert "gives the prompt the id 390, which is that of an image code" in lumina.generate(*PAIR).refusal()


def test_a_name_does_not_control_the_terminal(lumina: CommandLine) -> None:
    lumina.refuses_to_generate("--checkpoint", "a\x1b[31mb", expected=r"checkpoint a\x1b[31mb does not exist")
