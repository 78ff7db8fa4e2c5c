"""Text to token ids, with the model's special tokens looked up by name and never made from a user's text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from .errors import CheckpointError, InputError

IMAGE_START = "<racm3:break>"
IMAGE_END = "<eoss>"
END_OF_ROW = "<reserved08799>"
END_OF_TURN = "<reserved08706>"


def grid_unit_name(units: int) -> str:
    """Name of the token that says "`units` grid units" (of 32 pixels each)."""
    return f"<reserved{8800 + units:05d}>"


REQUIRED_TOKENS = (IMAGE_START, IMAGE_END, END_OF_ROW, END_OF_TURN, grid_unit_name(0), grid_unit_name(1))


@dataclass(frozen=True)
class Tokenizer:
    """A byte-level BPE for text beside a table of special tokens by name.

    `text` must hold no added tokens: then a special token's name that a user types is encoded as the text it is.
    """

    text: tokenizers.Tokenizer
    special_ids: Mapping[str, int]
    bos: str
    source: str = "tokenizer.json"

    @property
    def bos_id(self) -> int:
        """Id of the token that begins a prompt."""
        return self.token_id(self.bos)

    def encode_text(self, text: str) -> list[int]:
        """Ids of `text` alone, special tokens' names included as plain text. Raises InputError for no valid text."""
        try:
            text.encode("utf-8")
        except (AttributeError, UnicodeEncodeError) as error:
            raise InputError(
                f"the text {text!r} is not valid Unicode ({error}); expected a string of characters"
            ) from error
        return self.text.encode(text, add_special_tokens=False).ids

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a whole prompt: bos, the text, end of turn. Raises InputError for no valid text."""
        return [self.bos_id, *self.encode_text(text), self.token_id(END_OF_TURN)]

    def has_token(self, name: str) -> bool:
        """Whether the vocabulary has a token of this name."""
        return self._find(name) is not None

    def token_id(self, name: str) -> int:
        """Id of the token called `name`. Raises CheckpointError when the vocabulary has none."""
        found = self._find(name)
        if found is None:
            raise _missing(self.source, [name])
        return found

    def _find(self, name: str) -> int | None:
        return self.special_ids.get(name, self.text.token_to_id(name))


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Tokenizer of a checkpoint folder, or of a `tokenizer.json` with its companions beside it.

    The special tokens come from `tokenizer.json`, `added_tokens.json` and `tokenizer_config.json`, the first that has
    a name counts. Raises CheckpointError for a missing or broken file, or a token that the model needs and lacks.
    """
    file = Path(path)
    file = file / "tokenizer.json" if file.is_dir() else file
    whole = _read_tokenizer(file)
    settings = _read_json(file.with_name("tokenizer_config.json"))
    special_ids = _special_ids(whole, settings, _read_json(file.with_name("added_tokens.json")))
    bos = _bos_name(file, settings, _read_json(file.with_name("special_tokens_map.json")))
    tokenizer = Tokenizer(_without_added_tokens(whole), special_ids, bos, str(file))
    missing = [name for name in (*REQUIRED_TOKENS, bos) if not tokenizer.has_token(name)]
    if missing:
        raise _missing(str(file), missing)
    return tokenizer


def _missing(source: str, names: list[str]) -> CheckpointError:
    return CheckpointError(
        f"{source} has no token named {', '.join(names)}; expected the tokenizer of a Lumina-mGPT 2.0 checkpoint, "
        "with added_tokens.json and tokenizer_config.json beside it if they came with it"
    )


def _read_tokenizer(file: Path) -> tokenizers.Tokenizer:
    if not file.is_file():
        raise CheckpointError(f"there is no tokenizer at {file}; expected the checkpoint's tokenizer.json there")
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no narrower type
        raise CheckpointError(f"{file} is not a tokenizer ({error}); download it again") from error


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {file} ({error}); download it again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} holds a JSON {type(values).__name__}; expected an object of named values")
    return values


def _special_ids(whole: tokenizers.Tokenizer, settings: dict[str, Any], added: dict[str, Any]) -> dict[str, int]:
    in_settings = settings.get("added_tokens_decoder") or {}
    try:
        ids = {token["content"]: int(token_id) for token_id, token in in_settings.items()}
        ids.update({name: int(token_id) for name, token_id in added.items()})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        expected = "names with whole-number ids in added_tokens.json and tokenizer_config.json"
        raise CheckpointError(f"the special tokens cannot be read ({error!r}); expected {expected}") from error
    ids.update({token.content: token_id for token_id, token in whole.get_added_tokens_decoder().items()})
    return ids


def _bos_name(file: Path, *sources: dict[str, Any]) -> str:
    for key in ("bos_token", "eos_token"):
        for source in sources:
            token = source.get(key)
            name = token.get("content") if isinstance(token, dict) else token
            if isinstance(name, str) and name:
                return name
    settings = file.with_name("tokenizer_config.json")
    raise CheckpointError(f"{settings} names neither bos_token nor eos_token; expected the token that begins a prompt")


def _without_added_tokens(whole: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A tokenizer on the same model (shared, not copied) and the same splitting rules that knows no added token."""
    text = tokenizers.Tokenizer(whole.model)
    if whole.normalizer is not None:
        text.normalizer = whole.normalizer
    if whole.pre_tokenizer is not None:
        text.pre_tokenizer = whole.pre_tokenizer
    return text
