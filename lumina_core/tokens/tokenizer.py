"""Converts prompts to token ids. What a user types never becomes a special token; a template may contain some."""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import tokenizers

from ..errors import CheckpointError, InputError
from ..files.json_text import parse_json, read_text
from ..files.native_stderr import native_stderr, print_again
from .added_tokens import (
    AddedTokens,
    Difference,
    differences,
    log_difference,
    tokens_of_added,
    tokens_of_config,
    tokens_of_file,
)
from .prompt_text import PromptText, check_text

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

IMAGE_START = "<racm3:break>"
IMAGE_END = "<eoss>"
END_OF_ROW = "<reserved08799>"
END_OF_TURN = "<reserved08706>"
TOKENIZER = "tokenizer.json"
EXTRA_FILES = ("tokenizer_config.json", "added_tokens.json", "special_tokens_map.json")


def grid_unit_name(units: int) -> str:
    """The name of the token for a side of `units` grid units of 32 pixels."""
    return f"<reserved{8800 + units:05d}>"


# A text that every tokenizer of the model encodes without loss.
PROBE = "Generate an image of 768x768 according to the following prompt:\nA red circle, the UPPER half (3/4)."
MANY_TOKENS = 1000
REQUIRED_TOKENS = (IMAGE_START, IMAGE_END, END_OF_ROW, grid_unit_name(0), grid_unit_name(1))
# Names as `grid_unit_name` makes them.
_GRID_UNIT = re.compile(r"<reserved088\d\d>$")


@dataclass(frozen=True)
class Tokenizer:
    """A byte-level BPE for text, and the added tokens.

    `text` has no added tokens, so that the name of a special token in user text is encoded as text.
    """

    text: tokenizers.Tokenizer
    added: AddedTokens
    bos: str
    source: str = "tokenizer.json"

    @property
    def special_ids(self) -> Mapping[str, int]:
        """Ids of the added tokens by name."""
        return self.added.ids

    @property
    def bos_id(self) -> int:
        """The id of the first token of a prompt."""
        return self.token_id(self.bos)

    @property
    def end_of_turn_id(self) -> int | None:
        """The id of the end of turn; None where it is no added token, so that prompts end with its name as text."""
        return self.special_ids.get(END_OF_TURN)

    def encode_text(self, text: str) -> list[int]:
        """Ids of `text`. Names of special tokens are plain text. Raises InputError for invalid Unicode."""
        check_text("text", text)
        ids = _call_library(
            lambda: self.text.encode(text, add_special_tokens=False).ids,
            lambda reason: CheckpointError(f"{self.source} cannot encode a text ({reason}); download it again"),
        )
        # Some tokenizers have special tokens in their text vocabulary too.
        if found := self._picture_ids.intersection(ids):
            name = self.text.id_to_token(min(found))
            raise InputError(f"the text contains the special token {name}; expected a text without it")
        return ids

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a prompt: bos, text, end of turn. Raises InputError for invalid Unicode.

        The template of a PromptText is encoded with the added tokens, what a user typed, and a plain string, without.
        """
        prompt = PromptText(text).with_end(END_OF_TURN)
        ids, end = [self.bos_id], 0
        for token in self.added.find(prompt):
            ids += [*self.encode_text(prompt[end : token.start]), token.id]
            end = token.end
        return ids + self.encode_text(prompt[end:])

    @cached_property
    def _picture_ids(self) -> frozenset[int]:
        """Ids of the tokens that make a picture, which no text gives."""
        units = itertools.takewhile(self.has_token, map(grid_unit_name, itertools.count()))
        return frozenset(self.token_id(name) for name in (IMAGE_START, IMAGE_END, END_OF_ROW, *units))

    def has_token(self, name: str) -> bool:
        return self._find(name) is not None

    def token_id(self, name: str) -> int:
        """The id of a token. Raises CheckpointError when there is no token of that name."""
        found = self._find(name)
        if found is None:
            raise _missing(self.source, [name])
        return found

    def _find(self, name: str) -> int | None:
        return self.special_ids.get(name, self.text.token_to_id(name))


def make_tokenizer(files: TokenizerFiles) -> Tokenizer:
    """The tokenizer in the given files.

    Added tokens come from `tokenizer.json`, `added_tokens.json` and `tokenizer_config.json`, in this order of
    precedence. An end of turn that is no added token is encoded as text, and the log says so. Raises CheckpointError
    when a file is missing or damaged, or when another token of the model is missing.
    """
    whole, settings = files.tokenizer(), files.values("tokenizer_config.json")
    bos = _bos_name(files, settings, files.values("special_tokens_map.json"))
    text = _without_added_tokens(whole, files.source(files.main))
    tokenizer = Tokenizer(text, _added_tokens(files, whole, settings), bos, files.source(files.main))
    missing = [name for name in (*REQUIRED_TOKENS, bos) if not tokenizer.has_token(name)]
    if missing:
        raise _missing(tokenizer.source, missing)
    _check_ids(tokenizer)
    _check_lossless(tokenizer)
    if tokenizer.end_of_turn_id is None:
        logger.warning(
            "%s has no added token %s: prompts end with it as text, as in the published program",
            tokenizer.source,
            END_OF_TURN,
        )
    return tokenizer


def _missing(source: str, names: list[str]) -> CheckpointError:
    return CheckpointError(
        f"{source} has no token named {', '.join(names)}; expected the tokenizer of a Lumina-mGPT 2.0 checkpoint, "
        "with added_tokens.json and tokenizer_config.json in the same folder if the checkpoint has them"
    )


def _check_ids(tokenizer: Tokenizer) -> None:
    """Raises CheckpointError when the id of a token of the model is that of another token of the text vocabulary."""
    for name in (*REQUIRED_TOKENS, tokenizer.bos):
        found = tokenizer.token_id(name)
        other = tokenizer.text.id_to_token(found)
        if other is not None and other != name:
            raise CheckpointError(
                f"{tokenizer.source}: {name} has the id {found}, which is that of the text {other!r:.40}; expected an "
                "id of its own: download the tokenizer files again"
            )


def _check_lossless(tokenizer: Tokenizer) -> None:
    """Raises CheckpointError for a tokenizer that changes or drops text, or takes a token for every byte of it."""
    tokens = tokenizer.text.encode(PROBE, add_special_tokens=False).tokens
    if tokenizers.decoders.ByteLevel().decode(tokens).strip() != PROBE:
        raise CheckpointError(
            f"{tokenizer.source} changes the text that it encodes; expected a byte-level BPE, as in the published "
            "checkpoint: download the tokenizer files again"
        )
    if len(tokens) >= len(PROBE) and tokenizer.text.get_vocab_size() > MANY_TOKENS:
        raise CheckpointError(
            f"{tokenizer.source} has no merges: it takes a token for every letter; download the tokenizer files again"
        )


def _call_library(call: Callable[[], Result], failed: Callable[[str], CheckpointError]) -> Result:
    """Calls the tokenizers library; raises what `failed` makes of the first line of its error, a panic too."""
    try:
        return call()
    except BaseException as error:  # plain Exception, and panics of Rust, which are no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise failed(str(error).partition("\n")[0][:200]) from error


@dataclass(frozen=True)
class TokenizerFiles:
    """The texts of the tokenizer files by file name. `place` is their folder, or the converted file with them."""

    place: Path
    texts: Mapping[str, str]
    main: str = TOKENIZER

    def source(self, name: str) -> str:
        """How errors name a file."""
        return f"{name} in {self.place}" if self.place.is_file() else str(self.place / name)

    def tokenizer(self) -> tokenizers.Tokenizer:
        source = self.source(self.main)
        if self.main not in self.texts:
            raise CheckpointError(f"there is no tokenizer at {source}; expected the tokenizer.json of the checkpoint")
        with native_stderr() as lines:  # a panic prints its own lines
            tokenizer = _call_library(
                lambda: tokenizers.Tokenizer.from_str(self.texts[self.main].removeprefix("\ufeff")),
                lambda reason: CheckpointError(f"{source} is not a tokenizer ({reason}); download it again"),
            )
        print_again(lines)
        return tokenizer

    def values(self, name: str) -> dict[str, Any]:
        """The JSON object in a file; empty when the file does not exist. Raises CheckpointError for damaged JSON."""
        return parse_json(self.texts.get(name, "{}"), self.source(name))


def tokenizer_paths(main: Path) -> list[Path]:
    """The tokenizer file `main` and EXTRA_FILES next to it, those that exist, in upper or lower case."""
    return [file for name in (main.name, *EXTRA_FILES) if (file := _existing(main.with_name(name))) is not None]


def read_tokenizer_files(path: Path) -> TokenizerFiles:
    """Reads `tokenizer.json` and EXTRA_FILES of a folder. Raises CheckpointError when a file cannot be read."""
    main = path / TOKENIZER if path.is_dir() else path
    names = {name.lower(): name for name in (*EXTRA_FILES, main.name)}
    expected = "a tokenizer file of the checkpoint"
    texts = {names[file.name.lower()]: read_text(file, expected=expected) for file in tokenizer_paths(main)}
    return TokenizerFiles(main.parent, texts, main.name)


def _existing(file: Path) -> Path | None:
    """The file, or else the one whose name differs in upper and lower case only, or else None."""
    if file.exists():
        return file
    with contextlib.suppress(OSError):
        return next((other for other in sorted(file.parent.iterdir()) if other.name.lower() == file.name.lower()), None)
    return None


def _added_tokens(files: TokenizerFiles, whole: tokenizers.Tokenizer, settings: dict[str, Any]) -> AddedTokens:
    """The added tokens of all files. Logs where two files, or a file and the tokenizers library, differ in an id.

    Raises CheckpointError where two files differ in the id of a token that makes pictures.
    """
    main, added, config = (files.source(name) for name in (files.main, "added_tokens.json", "tokenizer_config.json"))
    tokens = tokens_of_file(files.texts[files.main].removeprefix("\ufeff"))
    names = [token.content for token, _ in tokens]
    by_place = differences(tokens, {name: whole.token_to_id(name) for name in names})
    log_difference(main, by_place, "its place in the list")
    for source, others in (
        (added, tokens_of_added(files.values("added_tokens.json"), added)),
        (config, tokens_of_config(settings, config)),
    ):
        different = differences(tokens, {token.content: found for token, found in others})
        _check_picture_tokens(main, different, source)
        log_difference(main, different, source)
        tokens += others
    return AddedTokens.of(tokens, whole.normalizer)


def _check_picture_tokens(main: str, different: list[Difference], source: str) -> None:
    for name, found, other in different:
        if name in REQUIRED_TOKENS or _GRID_UNIT.match(name):
            raise CheckpointError(
                f"{main} gives {name} the id {found}, and {source} {other}; expected one id: the files are of "
                "different models, so download them again"
            )


def _bos_name(files: TokenizerFiles, *sources: dict[str, Any]) -> str:
    for key in ("bos_token", "eos_token"):
        for source in sources:
            token = source.get(key)
            name = token.get("content") if isinstance(token, dict) else token
            if isinstance(name, str) and name:
                return name
    settings = files.source("tokenizer_config.json")
    raise CheckpointError(f"{settings} has neither bos_token nor eos_token; expected the first token of a prompt")


def _without_added_tokens(whole: tokenizers.Tokenizer, source: str) -> tokenizers.Tokenizer:
    """A tokenizer with the same model (shared, not copied) and pre-tokenizer, but no added tokens."""
    if dropout := getattr(whole.model, "dropout", None):
        raise CheckpointError(f"{source}: dropout is {dropout}, so that ids are random; expected null")
    text = tokenizers.Tokenizer(whole.model)
    if whole.normalizer is not None:
        text.normalizer = whole.normalizer
    if whole.pre_tokenizer is not None:
        text.pre_tokenizer = whole.pre_tokenizer
    return text
