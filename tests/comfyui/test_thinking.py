"""Thinking before drawing, with a core string node instead of a language model."""

from __future__ import annotations

import numpy as np
import pytest
from workflows import PROMPT, SAVE, node, text_to_image

ASK, LANGUAGE_MODEL, ANSWER, ASKED, HAPPENED, IMPROVED, FULL = "10", "11", "12", "13", "14", "15", "16"
PLAIN, CAPTION = "a blue square", "a red circle left of a blue square"


def thinking(answer: str, plain: str = PLAIN) -> dict:
    workflow = text_to_image(seed=70) | {
        ASK: node("LuminaMGPT2_ThinkingInstruction", task="text to image", prompt=plain, max_words=60),
        LANGUAGE_MODEL: node("PrimitiveStringMultiline", value=answer),
        ANSWER: node("LuminaMGPT2_ThinkingAnswer", answer=[LANGUAGE_MODEL, 0], prompt=[ASK, 1], max_characters=1000),
        ASKED: node("PreviewAny", source=[ASK, 0]),
        HAPPENED: node("PreviewAny", source=[ANSWER, 1]),
        IMPROVED: node("PreviewAny", source=[ANSWER, 2]),
        FULL: node("PreviewAny", source=[PROMPT, 1]),
    }
    workflow[PROMPT]["inputs"]["prompt"] = [ANSWER, 0]
    return workflow


def shown(run, name: str) -> str:
    return run.outputs[name]["text"][0]


def drawn(server, prompt: str) -> np.ndarray:
    (picture,) = server.pictures(server.run(text_to_image(seed=70, prompt=prompt)), SAVE)
    return np.asarray(picture)


def test_the_improved_prompt_is_drawn(server):
    run = server.run(thinking(f"<think>both shapes</think>\nHere:\n<caption>\n“{CAPTION}”\n</caption>"))
    assert run.succeeded, run.error
    assert shown(run, ASKED).endswith(f"The request: {PLAIN}") and "at most 60 words" in shown(run, ASKED)
    assert shown(run, FULL).endswith(CAPTION)
    assert shown(run, HAPPENED).startswith("answer: ") and shown(run, IMPROVED).lower() == "true"
    assert np.array_equal(np.asarray(server.pictures(run, SAVE)[0]), drawn(server, CAPTION))


@pytest.mark.parametrize("answer", ["", "<caption>a red circ", "I'm sorry, I can't help with that."])
def test_a_broken_answer_draws_the_original_prompt_and_reports_it(server, answer):
    run = server.run(thinking(answer))
    assert run.succeeded, run.error
    assert shown(run, FULL).endswith(PLAIN)
    assert shown(run, HAPPENED).startswith("plain prompt: ") and shown(run, IMPROVED).lower() == "false"
    assert shown(run, HAPPENED).removeprefix("plain prompt: ") in server.log
    assert np.array_equal(np.asarray(server.pictures(run, SAVE)[0]), drawn(server, PLAIN))


def test_an_empty_prompt_is_an_error(server):
    run = server.run(thinking(CAPTION, plain="  "))
    assert run.error["node_id"] == ASK and "the prompt is empty" in run.error["exception_message"]
