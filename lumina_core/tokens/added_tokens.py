"""The added tokens of a tokenizer: their ids by name, and where a template contains them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import tokenizers
from tokenizers import AddedToken, models

from ..errors import CheckpointError
from .prompt_text import PromptText

logger = logging.getLogger(__name__)

# The name of a token, its id, and its id elsewhere.
Difference = tuple[str, int, int | None]
MAX_ID = 2**32
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
# Stand-ins for what a user typed: word characters (Yi), symbols (Braille) and spaces that no normalizer changes.
_WORDS, _SYMBOLS, _SPACES = range(0xA000, 0xA48D), range(0x2801, 0x2900), (0x1680, 0x2028, 0x2029)


@dataclass(frozen=True)
class Occurrence:
    """An added token in a text, from `start` to `end` in characters."""

    start: int
    end: int
    id: int


@dataclass(frozen=True)
class AddedTokens:
    """Ids by name, and a tokenizer of these tokens alone, which finds them as the whole one does."""

    ids: Mapping[str, int]
    finder: tokenizers.Tokenizer

    @classmethod
    def of(cls, tokens: Iterable[tuple[AddedToken, int]], normalizer: Any = None) -> AddedTokens:
        """The tokens with their ids; of two with one name, the first counts. Tokens without a name do not."""
        first: dict[str, tuple[AddedToken, int]] = {}
        for token, token_id in tokens:
            if token.content:
                first.setdefault(token.content, (token, token_id))
        finder = tokenizers.Tokenizer(models.WordLevel({"": 0}, unk_token=""))
        if normalizer is not None:
            finder.normalizer = normalizer
        finder.add_tokens([token for token, _ in first.values()])
        return cls({name: token_id for name, (_, token_id) in first.items()}, finder)

    def find(self, prompt: PromptText) -> Iterator[Occurrence]:
        """The added tokens that lie wholly in template text, longest first where two begin at one place."""
        masked = self._without_typed(prompt)
        encoding = self.finder.encode(masked, add_special_tokens=False)
        for number, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            name = self.finder.id_to_token(number) or ""
            if name in self.ids and not _is_typed(prompt, *_without_spaces(masked, start, end, name)):
                yield Occurrence(start, end, self.ids[name])

    def _without_typed(self, prompt: PromptText) -> str:
        """The prompt with stand-ins, of the same kinds, for the characters that a user typed."""
        pieces, end = [], 0
        for first, last in prompt.typed:
            pieces += [prompt[end:first], self._stand_ins(prompt[first:last])]
            end = last
        return "".join([*pieces, prompt[end:]])

    def _stand_ins(self, text: str) -> str:
        word, symbol, space = self._masks
        return re.sub(r"[^\w\s]", symbol, re.sub(r"\w", word, re.sub(r"\s", space, text)))

    @cached_property
    def _masks(self) -> tuple[str, str, str]:
        """A word character, a symbol and a space that no added token contains."""
        used = set().union(*self.ids)
        word, symbol, space = (
            next((chr(code) for code in codes if chr(code) not in used), chr(codes[0]))
            for codes in (_WORDS, _SYMBOLS, _SPACES)
        )
        return word, symbol, space


def tokens_of_file(text: str) -> list[tuple[AddedToken, int]]:
    """The added tokens of the text of a `tokenizer.json` that the tokenizers library reads, with the file's ids."""
    return [(_token(values), values["id"]) for values in json.loads(text).get("added_tokens") or ()]


def tokens_of_config(values: dict[str, Any], source: str) -> list[tuple[AddedToken, int]]:
    """The tokens in `added_tokens_decoder` of a `tokenizer_config.json`. Raises CheckpointError for damaged ones."""
    decoder = values.get("added_tokens_decoder") or {}
    expected = "ids with the content of their tokens in added_tokens_decoder"
    if not isinstance(decoder, dict):
        raise CheckpointError(f"{source} has no {expected}; download it again")
    tokens = []
    for key, token in decoder.items():
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise CheckpointError(f"{source}: token {key!r:.40} is {token!r:.40}; expected {expected}")
        tokens.append((_token(token), _id(int(key) if re.fullmatch("[0-9]{1,10}", key) else key, source, token)))
    return tokens


def tokens_of_added(values: dict[str, Any], source: str) -> list[tuple[AddedToken, int]]:
    """The tokens of an `added_tokens.json`, a map of names to ids. Raises CheckpointError for damaged ids."""
    return [(AddedToken(name, normalized=False), _id(value, source, name)) for name, value in values.items()]


def _token(values: dict[str, Any]) -> AddedToken:
    return AddedToken(values["content"], **{flag: values.get(flag) is True for flag in _FLAGS})


def _id(value: object, source: str, token: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MAX_ID:
        raise CheckpointError(f"{source}: the id of {token!r:.80} is {value!r:.40}; expected an integer of at least 0")
    return value


def _is_typed(prompt: PromptText, start: int, end: int) -> bool:
    """Whether a user typed a character from `start` to `end`."""
    return any(first < end and start < last for first, last in prompt.typed)


def _without_spaces(text: str, start: int, end: int, name: str) -> tuple[int, int]:
    """The stretch of the name itself: a token with `lstrip` or `rstrip` takes in the spaces next to it."""
    first = text.find(name, start, end)
    if first >= 0:
        return first, first + len(name)
    found = text[start:end]  # a normalizer changes the name
    return start + len(found) - len(found.lstrip()), start + len(found.rstrip())


def differences(tokens: list[tuple[AddedToken, int]], others: Mapping[str, int | None]) -> list[Difference]:
    """The name, the id, and the id in `others`, of tokens that have another there."""
    found = ((token.content, one, others.get(token.content, one)) for token, one in tokens)
    return [difference for difference in found if difference[1] != difference[2]]


def log_difference(main: str, different: list[Difference], source: str) -> None:
    """Logs the first token with another id by `source` than by `main`, whose id is used."""
    for name, found, other in different[:1]:
        message = "%s: the id of %s is %d, by %s %s; the id of the former is used"
        logger.warning(message, main, name, found, source, other)
