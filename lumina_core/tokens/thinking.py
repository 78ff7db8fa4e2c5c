"""Prompt rewriting ("thinking before drawing"): the instruction for a language model and the parser of its answer.

The method is from the Lumina-mGPT 2.0 paper (arXiv 2507.17801, inference-time scaling); the wording is ours.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from types import MappingProxyType

from ..errors import InputError

logger = logging.getLogger(__name__)

START_MARK, END_MARK = "<caption>", "</caption>"
_PICTURE = "a caption of the finished picture"
AIMS = MappingProxyType(
    {
        "t2i": _PICTURE,
        "pair": _PICTURE + "; a map of it is drawn beside it, so do not mention the map",
        "control": _PICTURE + "; its outlines or depths are given already, so say what is seen and not where",
        "subject": _PICTURE
        + "; its subject is given as a picture, so name it as the request does and describe the rest",
        "edit": "one clear order to change a given picture; name what changes, and what must stay as it is if in doubt",
        "subject-released": _PICTURE
        + "; its subject is given as a picture, so call it 'this item' and describe the rest",
    }
)
"""Description of the text to write, for each task of `prompts.TEMPLATES` with a user prompt to improve."""

# The instruction names the end mark first, so an answer that repeats the instruction has no text between two marks.
_INSTRUCTION = f"""\
You prepare the text for a model that draws pictures. Write {{aim}}.

First think it through step by step: which things are there, how many of each, in which colours and materials, where \
each stands relative to the others, what happens, the light, the style. Keep everything that the request says: every \
thing, number, colour, place and every word to be written in the picture. Add only details that fit and that can be \
seen. Do not explain the picture and do not praise it.

Then give the result once: plain English in one paragraph of at most {{max_words}} words, without title, list or \
quotation marks. It must end with {END_MARK} and begin with {START_MARK}. Put your thoughts before it and nothing \
after it.

The request: {{prompt}}"""

_THOUGHTS = re.compile(r"<(think|thinking)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_THOUGHTS_BEGIN = re.compile(r"<think(?:ing)?>", re.IGNORECASE)
_THOUGHTS_END = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_FENCE = re.compile(r"^\s*```\w*\s*$|```", re.MULTILINE)
_LABEL = re.compile(r"^(?:(?:improved|final|new)\s+)?(?:caption|prompt)\s*:\s*", re.IGNORECASE)
_REFUSAL = re.compile(r"(?:(?:i['’]?m|i am) (?:sorry|unable)\b|sorry,|i can(?:no|['’])t\b|as an ai\b)", re.IGNORECASE)
# Turn markers of chat templates: <|im_end|>, <|channel>, <turn|>, <end_of_turn>, </s>.
_TURN = re.compile(r"<\|[^<>]*>|<[^<>]*\|>|<(?:start|end)_of_turn>|</?s>")
_WRAPPINGS = (
    *(("**", "**"), ("`", "`"), ('"', '"'), ("'", "'")),
    *(("“", "”"), ("„", "“"), ("‘", "’"), ("«", "»"), ("「", "」")),
)
_SENTENCE_END = re.compile(r"[.!?](?=\s)|[。！？]")


@dataclass(frozen=True)
class Thought:
    """The text to draw, whether it is from the language model, and a note for the user on what happened."""

    text: str
    from_answer: bool
    note: str


class _NoTextError(Exception):
    """The answer contains no text to draw; the message says why."""


def thinking_instruction(prompt: str, task: str = "t2i", max_words: int = 120) -> str:
    """The instruction for a language model to rewrite a prompt. Raises InputError for an empty prompt."""
    if task not in AIMS:
        raise InputError(f"the task is {task!r}; expected one of {', '.join(AIMS)}")
    if not prompt.strip():
        raise InputError("the prompt is empty; expected a description for the language model to rewrite")
    return _INSTRUCTION.format(aim=AIMS[task], max_words=max_words, prompt=" ".join(prompt.split()))


def read_answer(answer: str, prompt: str, max_characters: int = 1000) -> Thought:
    """The text to draw from the answer of a language model: the text between the marks, or the only paragraph.

    Removes thoughts, code fences, enclosing quotation marks and a leading label. Shortens the text to `max_characters`,
    to whole sentences if possible. Returns `prompt` and logs a warning when the answer is empty or cut off, is a
    refusal, or has several paragraphs and no marks.
    """
    try:
        text, note = _caption(answer)
    except _NoTextError as error:
        logger.warning("Thinking before drawing: %s; the plain prompt is drawn.", error)
        return Thought(prompt, False, f"plain prompt: {error}")
    short = _shortened(text, max_characters)
    if short != text:
        note += f", shortened from {len(text)} to {len(short)} characters"
    return Thought(short, True, f"answer: {note}")


def _caption(answer: str) -> tuple[str, str]:
    text = _without_thoughts(answer)
    if not text.strip():
        raise _NoTextError("the answer is empty")
    end = text.rfind(END_MARK)
    start = text.rfind(START_MARK, 0, end if end >= 0 else None)
    if start >= 0 and end >= 0:
        return _clean(text[start + len(START_MARK) : end]), "the text between the marks"
    if start >= 0 or end >= 0:
        raise _NoTextError(f"the answer is cut off: expected both {START_MARK} and {END_MARK}, in this order")
    return _clean(_only_paragraph(text)), "the whole text, which has no marks"


def _without_thoughts(text: str) -> str:
    """The text after the thoughts. Some answers begin inside the thoughts, some end there."""
    text = _THOUGHTS.sub(" ", _TURN.sub(" ", text))
    text = _THOUGHTS_END.split(text)[-1]
    if _THOUGHTS_BEGIN.search(text):
        raise _NoTextError("the answer ends within its thoughts; raise the token limit of the language model")
    return text


def _only_paragraph(text: str) -> str:
    paragraphs = [part for part in re.split(r"\n\s*\n", _FENCE.sub("", text)) if part.strip()]
    if len(paragraphs) > 1:
        raise _NoTextError(f"the answer has {len(paragraphs)} paragraphs and no marks")
    if _REFUSAL.match(text.strip()):
        raise _NoTextError("the language model refused")
    return "".join(paragraphs)


def _clean(text: str) -> str:
    text = "".join(letter if letter.isprintable() else " " for letter in _FENCE.sub(" ", text))
    text = " ".join(text.split())
    while (bare := _unwrapped(_LABEL.sub("", text))) != text:
        text = bare
    if not any(map(str.isalpha, text)):
        raise _NoTextError("the answer contains no words")
    return text


def _unwrapped(text: str) -> str:
    """The text without one pair of quotation marks or asterisks around all of it."""
    for left, right in _WRAPPINGS:
        inner = text[len(left) : -len(right)]
        if inner and text == left + inner + right and left not in inner and right not in inner:
            return inner.strip()
    return text


def _shortened(text: str, limit: int) -> str:
    """At most `limit` characters: whole sentences if one fits, else whole words, else a cut word."""
    if len(text) <= limit:
        return text
    sentences = [match.end() for match in _SENTENCE_END.finditer(text) if match.end() <= limit]
    words = text.rfind(" ", 0, limit + 1)
    return text[: sentences[-1] if sentences else words if words > 0 else limit]
