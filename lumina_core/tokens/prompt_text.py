"""A full prompt that knows which of its stretches a user typed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import InputError

_SHOWN = 40


class PromptText(str):
    """A string with `typed`, the stretches (start, end) in characters that a user typed; the rest is a template.

    A plain string, and every part or sum of strings, counts as typed: only a template contains special tokens.
    """

    typed: tuple[tuple[int, int], ...]

    def __new__(cls, text: str, typed: Iterable[tuple[int, int]] | None = None) -> PromptText:
        """`typed` None: all of a plain string, or that of a PromptText. Raises InputError for invalid Unicode."""
        prompt = super().__new__(cls, check_text("text", text))
        if typed is None:
            typed = text.typed if isinstance(text, PromptText) else ((0, len(text)),)
        prompt.typed = tuple((start, end) for start, end in typed if start < end)
        return prompt

    @classmethod
    def of(cls, pieces: Iterable[tuple[str, bool]]) -> PromptText:
        """The sum of pieces (text, whether a user typed it)."""
        texts, typed, end = [], [], 0
        for text, is_typed in pieces:
            start, end = end, end + len(text)
            texts.append(text)
            if is_typed:
                typed.append((start, end))
        return cls("".join(texts), typed)

    def with_end(self, template: str) -> PromptText:
        """This prompt and a piece of template after it."""
        return PromptText(self + template, self.typed)


def check_text(name: str, text: Any) -> str:
    """The text. Raises InputError, with `name`, unless it is a string of valid Unicode."""
    try:
        text.encode("utf-8")
    except AttributeError:
        raise InputError(f"the {name} {text!r:.{_SHOWN}} is not valid Unicode text; expected a string") from None
    except UnicodeEncodeError as error:
        shown = f"{text[max(0, error.start - 10) : error.start + 10]!r}"
        reason = f"half a surrogate pair at character {error.start}: {shown}"
        raise InputError(f"the {name} is not valid Unicode ({reason}); expected whole characters") from None
    return str(text)
