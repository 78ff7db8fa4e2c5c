"""The instruction for a language model, and what is made of its answers, good and bad."""

from __future__ import annotations

import logging

import pytest

from lumina_core.errors import InputError
from lumina_core.tokens.prompts import TEMPLATES
from lumina_core.tokens.thinking import AIMS, END_MARK, START_MARK, read_answer, thinking_instruction

PROMPT = "two red cubes"
CAPTION = "Two red cubes stand side by side on a white table."


@pytest.mark.parametrize("task", AIMS)
def test_instruction_holds_the_request_the_aim_and_the_limit(task: str) -> None:
    text = thinking_instruction("two  red\ncubes {width}", task, max_words=77)
    assert text.endswith("The request: two red cubes {width}") and AIMS[task] in text and "at most 77 words" in text
    assert START_MARK in text and END_MARK in text


def test_aims_are_those_of_tasks_with_a_prompt() -> None:
    assert set(AIMS) == {name for name, template in TEMPLATES.items() if "{prompt}" in template.text} - {"predict"}


def test_nothing_to_think_about_is_refused() -> None:
    with pytest.raises(InputError, match="the prompt is empty"):
        thinking_instruction(" \n")
    with pytest.raises(InputError, match="'predict'; expected one of t2i"):
        thinking_instruction(PROMPT, "predict")


MARKED = {
    "plain": f"<caption>{CAPTION}</caption>",
    "thoughts in front": f"Two things, both red. So:\n\n<caption>\n{CAPTION}\n</caption>",
    "a think block": f"<think>Draft: <caption>wrong</caption></think>\n<caption>{CAPTION}</caption>",
    "a think block begun in the template": f"draft <caption>wrong</caption> hmm</think><caption>{CAPTION}</caption>",
    "the instruction repeated": f"{thinking_instruction(PROMPT)}\n\n<caption>{CAPTION}</caption>",
    "two captions": f"<caption>wrong</caption> Better: <caption>{CAPTION}</caption> Done.",
    "fenced": f"```text\n<caption>\n{CAPTION}\n</caption>\n```",
    "fenced inside": f"<caption>```\n{CAPTION}\n```</caption>",
    "quoted and labelled": f"<caption>Caption: “{CAPTION}”</caption>",
    "bold and quoted": f'<caption>**"{CAPTION}"**</caption>',
    "broken into lines": f"<caption>{CAPTION.replace(' ', chr(10))}\t</caption>",
    "control characters": f"<caption>{CAPTION.replace(' ', chr(0) + ' ')}\x1b</caption>",
}
UNMARKED = {
    "plain": CAPTION,
    "quoted": f'  "{CAPTION}"\n',
    "labelled": f"Improved caption: {CAPTION}",
    "fenced": f"```\n{CAPTION}\n```",
    "marks of a turn": f"<|channel>{chr(10)}{CAPTION}<|im_end|><end_of_turn>",
    "after thoughts": f"<thinking>first\n\nsecond</thinking>\n\n{CAPTION}",
}


@pytest.mark.parametrize("answer", MARKED.values(), ids=MARKED)
def test_the_text_between_the_marks_is_drawn(answer: str) -> None:
    thought = read_answer(answer, PROMPT)
    assert (thought.text, thought.from_answer) == (CAPTION, True)
    assert thought.note == "answer: the text between the marks"


@pytest.mark.parametrize("answer", UNMARKED.values(), ids=UNMARKED)
def test_without_marks_one_paragraph_is_drawn(answer: str) -> None:
    thought = read_answer(answer, PROMPT)
    assert (thought.text, thought.from_answer) == (CAPTION, True)
    assert "no marks" in thought.note


BROKEN = {
    "empty": ("", "is empty"),
    "blank": (" \n\t", "is empty"),
    "thoughts only": ("<think>two cubes</think>\n", "is empty"),
    "cut off in thought": (f"<think>two cubes, {CAPTION}", "within its thoughts"),
    "cut off in the caption": ("So: <caption>Two red cubes stand si", "cut off"),
    "no start": (f"{CAPTION}</caption>", "cut off"),
    "marks the wrong way round": (f"</caption>{CAPTION}<caption>", "cut off"),
    "the instruction alone": (thinking_instruction(PROMPT), "cut off"),
    "an empty caption": ("<caption> </caption>", "no words"),
    "no words": ("<caption>... 123 !!</caption>", "no words"),
    "quotes only": ('""', "no words"),
    "an essay": ("Sure!\n\nHere it is.\n\nTwo cubes.", "3 paragraphs"),
    "a refusal": ("I'm sorry, but I can't help with that.", "refused"),
    "another refusal": ("I cannot do this.", "refused"),
    "a third refusal": ("Sorry, as an AI I may not.", "refused"),
}


@pytest.mark.parametrize(("answer", "why"), BROKEN.values(), ids=BROKEN)
def test_a_broken_answer_gives_the_plain_prompt_and_says_so(
    answer: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        thought = read_answer(answer, PROMPT)
    assert (thought.text, thought.from_answer) == (PROMPT, False)
    assert thought.note.startswith("plain prompt: ") and why in thought.note
    assert why in caplog.text and "the plain prompt is drawn" in caplog.text


def test_a_good_answer_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    read_answer(CAPTION, PROMPT)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("text", "most", "short"),
    [
        (CAPTION, len(CAPTION), CAPTION),
        (f"{CAPTION} A third one lies behind.", 60, CAPTION),
        (f"{CAPTION} {CAPTION} {CAPTION}", 120, f"{CAPTION} {CAPTION}"),
        (CAPTION, 18, "Two red cubes"),
        (CAPTION, 13, "Two red cubes"),
        ("x" * 50, 20, "x" * 20),
        ("一个红色的立方体。一个蓝色的球。", 10, "一个红色的立方体。"),
        ("At 3.5 m height", 8, "At 3.5 m"),
    ],
)
def test_a_long_answer_is_cut_where_a_reader_would(text: str, most: int, short: str) -> None:
    thought = read_answer(f"<caption>{text}</caption>", PROMPT, most)
    assert thought.text == short and thought.from_answer
    assert ("shortened" in thought.note) == (short != text)


@pytest.mark.parametrize(
    "text", ['"Open" and "closed"', 'the cat\'s "toy"', "'tis a cat's toy", 'a sign that says "STOP"']
)
def test_quotation_marks_inside_stay(text: str) -> None:
    assert read_answer(f"<caption>{text}</caption>", PROMPT).text == text
