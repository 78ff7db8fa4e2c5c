"""Prompts have the published wording, take the user's text as it is, and name what they lack."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from pathlib import Path

import pytest

from lumina_core.errors import InputError
from lumina_core.tokens.prompt_text import PromptText
from lumina_core.tokens.prompts import MAPS, TASKS, TEMPLATES, build_negative, build_prompt

ALL_INPUTS = {"prompt": "a red square", "map": "depth", "object": "a red mug"}


def text_of(prompt: str) -> str:
    return prompt.partition(":\n")[2]


def test_published_prompts(golden: Path) -> None:
    """Every golden prompt is what build_prompt makes of its own text."""
    cases = json.loads((golden / "prompts" / "expected.json").read_text(encoding="utf-8"))["cases"]
    for case in cases:
        wanted, words = case["prompt"], case["prompt"].split(" of ")[1].split()[0]
        width, height = map(int, words.split("x"))
        map_key = next((key for key, name in MAPS.items() if f"<{name}>" in wanted), None)
        task = "t2i" if map_key is None else "control" if "condition" in case else "pair"
        assert build_prompt(task, width, height, text_of(wanted), map_key) == wanted


@pytest.mark.parametrize("case", ["i2i", "t2i_cfg4"])
def test_published_end_to_end_prompts(golden: Path, case: str) -> None:
    expected = json.loads((golden / "end_to_end" / "expected.json").read_text())[case]
    task, map_key = ("control", "depth") if case == "i2i" else ("t2i", None)
    assert build_prompt(task, expected["width"], expected["height"], expected["text"], map_key) == expected["prompt"]


def test_subject_wording() -> None:
    assert build_prompt("subject", 512, 1024, "on the moon", object="a red mug") == (
        "Generate a dual-panel image of 512x1024 where the <upper half> displays: a red mug, while the <lower half> "
        "shows the image according to the object and following prompt: on the moon."
    )


def test_released_subject_wording_is_control_with_the_object_in_the_place_of_the_map() -> None:
    control = build_prompt("control", 512, 1024, "this item on the moon", "depth")
    assert "<depth map>" in control
    released = build_prompt("subject-released", 512, 1024, "this item on the moon", object="a red mug")
    assert released == control.replace("depth map", "a red mug")


def test_typed_stretches_are_the_prompt_and_the_object() -> None:
    prompt = build_prompt("subject", 512, 1024, "on the moon", object="a red mug")
    assert [prompt[start:end] for start, end in prompt.typed] == ["a red mug", "on the moon"]
    own = build_prompt("pair", 64, 96, "{map}", "canny", template="{width}{height}{prompt}{map}{prompt}")
    assert [own[start:end] for start, end in own.typed] == ["{map}", "{map}"]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda prompt: pickle.loads(pickle.dumps(prompt))])
def test_copy_of_a_prompt_knows_what_is_typed(copied) -> None:
    prompt = build_prompt("t2i", 64, 64, "x")
    assert copied(prompt) == prompt and copied(prompt).typed == prompt.typed


def test_part_of_a_prompt_counts_as_typed() -> None:
    prompt = build_prompt("t2i", 64, 64, "x")
    assert PromptText(prompt[:8]).typed == ((0, 8),) and PromptText(prompt + "y").typed == ((0, len(prompt) + 1),)


def test_control_is_the_pair_with_its_halves_exchanged() -> None:
    pair = build_prompt("pair", 64, 128, "x", "hed")
    swapped = pair.replace("lower", "?").replace("upper", "lower").replace("?", "upper")
    assert build_prompt("control", 64, 128, "x", "hed") == swapped


@pytest.mark.parametrize("task", TASKS)
def test_each_task_says_its_size_and_text(task: str) -> None:
    prompt = build_prompt(task, 64, 128, **ALL_INPUTS)
    assert "64x128" in prompt and "a red square" in prompt and "{" not in prompt
    assert ("dual-panel" in prompt) is (task != "t2i")


def test_our_own_wording_is_marked() -> None:
    assert {task for task, template in TEMPLATES.items() if not template.published} == {"edit", "predict"}
    assert {task for task, template in TEMPLATES.items() if not template.needs_condition} == {"t2i", "pair"}


@pytest.mark.parametrize("text", ["{object}", "{0} {prompt!r} {{", "a\\1b \\g<0>", "  two  spaces\n"])
def test_text_is_taken_as_it_is(text: str) -> None:
    assert text_of(build_prompt("t2i", 64, 64, text)) == text
    assert text_of(build_prompt("t2i", 64, 64, text, template="{width}x{height}:\n{prompt}")) == text


@pytest.mark.parametrize("task", TASKS)
def test_a_negative_prompt_has_the_wording_of_its_task(task: str) -> None:
    """And what is typed in it is known as typed."""
    inputs = {name: value for name, value in ALL_INPUTS.items() if name != "prompt"}
    found, expected = (
        build_negative(task, 64, 64, "a <depth map>", **inputs),
        build_prompt(task, 64, 64, "a <depth map>", **inputs),
    )
    assert found == expected and found.typed == expected.typed
    assert [build_negative(task, 64, 64, blank, **inputs) for blank in (None, "", " \n\t")] == [None] * 3


def test_a_negative_prompt_is_text() -> None:
    for wrong in (7, "a\ud800b"):
        with pytest.raises(InputError, match=r"negative prompt .*is not valid Unicode"):
            build_negative("t2i", 64, 64, wrong)


def test_unused_inputs_are_ignored() -> None:
    assert build_prompt("t2i", 64, 64, "x", map="no such map", object="y") == build_prompt("t2i", 64, 64, "x")


@pytest.mark.parametrize(
    ("task", "inputs", "message"),
    [
        ("t2v", {}, "'t2v'; expected one of t2i, pair, control, subject, edit, predict"),
        ("pair", {"map": None}, "map is missing, which this task needs; expected one of depth, canny, hed, pose"),
        ("predict", {"map": "normals"}, "'normals'; expected one of depth, canny, hed, pose"),
        ("subject", {"object": None}, "object is empty, which this task needs"),
        ("subject", {"object": "  "}, "object is empty, which this task needs"),
        ("edit", {"prompt": " \n"}, "prompt is empty, which this task needs"),
        ("subject-released", {"object": ""}, "object is empty, which this task needs"),
        ("t2i", {"prompt": "a\ud800b"}, "prompt is not valid Unicode .*half a surrogate pair at character 1"),
        ("subject", {"object": "\udfff" * 10_000}, "object is not valid Unicode .{1,200}$"),
        ("t2i", {"template": "{width}{height}{prompt}\ud800"}, "template is not valid Unicode"),
        ("t2i", {"template": "x" * 10_000}, "the template .{1,300}$"),
        ("t2i", {"prompt": 7}, "prompt 7 is not valid Unicode"),
        ("t2i", {"prompt": None}, "prompt None is not valid Unicode"),
    ],
)
def test_lacking_input_is_named(task: str, inputs: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_prompt(task, 64, 64, **{**ALL_INPUTS, **inputs})


def test_empty_prompt_is_legal_where_the_published_program_takes_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert build_prompt("t2i", 64, 64, "").endswith("prompt:\n")
    assert "prompt is empty" in caplog.text


def test_template_of_the_user() -> None:
    own = "Draw {map} over {width} by {height}: {prompt}"
    assert build_prompt("pair", 64, 96, "x", "canny", template=own) == "Draw canny edge map over 64 by 96: x"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{width}x{height}", r"lacks \{prompt\}"),
        ("{width} {prompt}", r"lacks \{height\}"),
        ("{width}x{height} {prompt} {colour}", r"placeholder \{colour\}; expected only"),
        ("{width}x{height} {prompt.__class__}", r"placeholder \{prompt.__class__\}"),
        ("{width}x{height} {prompt} {}", r"placeholder \{\}"),
    ],
)
def test_template_that_cannot_be_filled(template: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_prompt("t2i", 64, 64, "x", template=template)
