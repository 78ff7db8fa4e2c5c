"""Converts text to token ids. User text never produces special tokens; those are looked up by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from ..errors import CheckpointError, InputError

IMAGE_START = "<racm3:break>"
IMAGE_END = "<eoss>"
END_OF_ROW = "<reserved08799>"
END_OF_TURN = "<reserved08706>"
TOKENIZER = "tokenizer.json"
EXTRA_FILES = ("tokenizer_config.json", "added_tokens.json", "special_tokens_map.json")


def grid_unit_name(units: int) -> str:
    """The name of the token for a side of `units` grid units of 32 pixels."""
    return f"<reserved{8800 + units:05d}>"


REQUIRED_TOKENS = (IMAGE_START, IMAGE_END, END_OF_ROW, END_OF_TURN, grid_unit_name(0), grid_unit_name(1))


@dataclass(frozen=True)
class Tokenizer:
    """A byte-level BPE for text, and the special tokens by name.

    `text` has no added tokens, so that the name of a special token in user text is encoded as text.
    """

    text: tokenizers.Tokenizer
    special_ids: Mapping[str, int]
    bos: str
    source: str = "tokenizer.json"

    @property
    def bos_id(self) -> int:
        """The id of the first token of a prompt."""
        return self.token_id(self.bos)

    def encode_text(self, text: str) -> list[int]:
        """Ids of `text`. Names of special tokens are plain text. Raises InputError for invalid Unicode."""
        try:
            text.encode("utf-8")
        except (AttributeError, UnicodeEncodeError) as error:
            raise InputError(f"the text {text!r} is not valid Unicode ({error}); expected a valid string") from error
        return self.text.encode(text, add_special_tokens=False).ids

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a prompt: bos, text, end of turn. Raises InputError for invalid Unicode."""
        return [self.bos_id, *self.encode_text(text), self.token_id(END_OF_TURN)]

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

    Special tokens come from `tokenizer.json`, `added_tokens.json` and `tokenizer_config.json`, in this order of
    precedence. Raises CheckpointError when a file is missing or damaged, or when a token of the model is missing.
    """
    whole, settings = files.tokenizer(), files.values("tokenizer_config.json")
    special_ids = _special_ids(whole, settings, files.values("added_tokens.json"))
    bos = _bos_name(files, settings, files.values("special_tokens_map.json"))
    tokenizer = Tokenizer(_without_added_tokens(whole), special_ids, bos, files.source(files.main))
    missing = [name for name in (*REQUIRED_TOKENS, bos) if not tokenizer.has_token(name)]
    if missing:
        raise _missing(tokenizer.source, missing)
    return tokenizer


def _missing(source: str, names: list[str]) -> CheckpointError:
    return CheckpointError(
        f"{source} has no token named {', '.join(names)}; expected the tokenizer of a Lumina-mGPT 2.0 checkpoint, "
        "with added_tokens.json and tokenizer_config.json in the same folder if the checkpoint has them"
    )


@dataclass(frozen=True)
class TokenizerFiles:
    """The texts of the tokenizer files by file name. `place` is their folder, or the converted file with them."""

    place: Path
    texts: Mapping[str, str]
    main: str = TOKENIZER

    def source(self, name: str) -> str:
        """How errors name a file."""
        return str(self.place / name) if self.place.suffix != ".safetensors" else f"{name} in {self.place}"

    def tokenizer(self) -> tokenizers.Tokenizer:
        source = self.source(self.main)
        if self.main not in self.texts:
            raise CheckpointError(f"there is no tokenizer at {source}; expected the tokenizer.json of the checkpoint")
        try:
            return tokenizers.Tokenizer.from_str(self.texts[self.main])
        except Exception as error:  # the library raises plain Exception
            raise CheckpointError(f"{source} is not a tokenizer ({error}); download it again") from error

    def values(self, name: str) -> dict[str, Any]:
        """The JSON object in a file; empty when the file does not exist."""
        try:
            values = json.loads(self.texts.get(name, "{}"))
        except ValueError as error:
            raise CheckpointError(f"cannot read {self.source(name)} ({error}); download it again") from error
        if not isinstance(values, dict):
            kind = type(values).__name__
            raise CheckpointError(f"{self.source(name)} contains a JSON {kind}; expected an object")
        return values


def tokenizer_paths(main: Path) -> list[Path]:
    """The tokenizer file `main` and EXTRA_FILES next to it, those that exist."""
    return [file for name in (main.name, *EXTRA_FILES) if (file := main.with_name(name)).is_file()]


def read_tokenizer_files(path: Path) -> TokenizerFiles:
    """Reads `tokenizer.json` and EXTRA_FILES of a folder. Raises CheckpointError when a file cannot be read."""
    main = path / TOKENIZER if path.is_dir() else path
    return TokenizerFiles(main.parent, {file.name: _read_text(file) for file in tokenizer_paths(main)}, main.name)


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {file} ({error}); download it again") from error


def _special_ids(whole: tokenizers.Tokenizer, settings: dict[str, Any], added: dict[str, Any]) -> dict[str, int]:
    added_in_settings = settings.get("added_tokens_decoder") or {}
    try:
        ids = {token["content"]: int(token_id) for token_id, token in added_in_settings.items()}
        ids.update({name: int(token_id) for name, token_id in added.items()})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        expected = "names with integer ids in added_tokens.json and tokenizer_config.json"
        raise CheckpointError(f"cannot read the special tokens ({error!r}); expected {expected}") from error
    ids.update({token.content: token_id for token_id, token in whole.get_added_tokens_decoder().items()})
    return ids


def _bos_name(files: TokenizerFiles, *sources: dict[str, Any]) -> str:
    for key in ("bos_token", "eos_token"):
        for source in sources:
            token = source.get(key)
            name = token.get("content") if isinstance(token, dict) else token
            if isinstance(name, str) and name:
                return name
    settings = files.source("tokenizer_config.json")
    raise CheckpointError(f"{settings} has neither bos_token nor eos_token; expected the first token of a prompt")


def _without_added_tokens(whole: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A tokenizer with the same model (shared, not copied) and pre-tokenizer, but no added tokens."""
    text = tokenizers.Tokenizer(whole.model)
    if whole.normalizer is not None:
        text.normalizer = whole.normalizer
    if whole.pre_tokenizer is not None:
        text.pre_tokenizer = whole.pre_tokenizer
    return text
