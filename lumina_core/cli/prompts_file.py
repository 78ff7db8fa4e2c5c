"""A file of prompts: plain text, one prompt a line, or JSON lines, each an object of a prompt and its settings."""

from __future__ import annotations

import argparse
import codecs
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files.json_text import parse_json
from ..files.kind import look_at
from ..tokens.prompts import find_template

EXPECTED = "a file of prompts in UTF-8, one a line, or JSON lines"
MAX_BYTES = 2**26
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
NAME_DIGITS = 5
_TEXT, _WHOLE, _NUMBER = ((str,), "a text"), ((int,), "a whole number"), ((int, float), "a number")
# What a line of JSON may hold; ranges are checked as those of the options are.
KEYS: dict[str, tuple[tuple[type, ...], str]] = {
    "prompt": _TEXT,
    "negative": _TEXT,
    "width": _WHOLE,
    "height": _WHOLE,
    "seed": _WHOLE,
    "task": _TEXT,
    "map": _TEXT,
    "object": _TEXT,
    "condition": _TEXT,
    "given_height": _WHOLE,
    "cfg": _NUMBER,
    "top_k": _WHOLE,
    "top_p": _NUMBER,
    "min_p": _NUMBER,
    "temperature": _NUMBER,
    "decoder": _TEXT,
    "out": _TEXT,
    "mask": _TEXT,
}
_LINE_END, _OBJECT = re.compile(r"\r\n|\r|\n"), re.compile(r'\{\s*"')
_UNDECODED = re.compile(r"[\udc80-\udcff]")
_NOT_IN_NAMES = re.compile(r'[/\\:*?"<>|\x00-\x1f]')


@dataclass(frozen=True)
class Line:
    """A line with a prompt: its `number` in the file, from 1, and its `index` among those with prompts, from 0."""

    number: int
    index: int
    text: str


@dataclass(frozen=True)
class PromptsFile:
    """The lines with prompts of a file, not parsed yet."""

    path: Path
    lines: tuple[Line, ...]
    is_json: bool

    def options(self, line: Line, defaults: argparse.Namespace) -> argparse.Namespace:
        """The options of `generate` for one line: its own values, and for the others those of the command.

        Without a seed of its own, a line has that of the command + its index × the batch, so that no two pictures have
        one seed. `condition` and `mask` are relative to the folder of the file. Raises InputError for a broken line.
        """
        own = {name: value for name, value in self._values(line).items() if value is not None}
        missing = [name for name in ("width", "height") if own.get(name, getattr(defaults, name)) is None]
        if missing:
            raise InputError(f"{missing[0]} is missing; expected it in the line, or --{missing[0]} for all lines")
        own.setdefault("seed", defaults.seed + line.index * defaults.batch)
        own["out"] = defaults.out / _name(own.get("out", f"{line.index:0{NAME_DIGITS}d}.png"))
        own |= {name: self.path.parent / own[name] for name in ("condition", "mask") if name in own}
        found = argparse.Namespace(**{**vars(defaults), **own})
        if not found.prompt.strip() and not find_template(found.task).needs_condition:
            raise InputError("prompt is empty; expected what to draw")
        return found

    def _values(self, line: Line) -> dict[str, Any]:
        if _UNDECODED.search(line.text):
            raise InputError("it is not UTF-8 text; save the file as UTF-8")
        if self.is_json:
            return _parse(line)
        if _OBJECT.match(line.text):
            raise InputError(
                "it begins as JSON, and the first prompt of the file does not; expected one form in a file"
            )
        return {"prompt": line.text}


def read_prompts(path: Path) -> PromptsFile:
    """The lines of a file; blank ones and those that begin with # are left out.

    JSON lines are those of a file with a suffix of JSON_SUFFIXES, and of one whose first prompt begins as an object.
    Raises InputError for what is no text, and for a file without a prompt.
    """
    numbered = ((number, text.strip()) for number, text in enumerate(_LINE_END.split(_read(path)), 1))
    kept = ((number, text) for number, text in numbered if text and not text.startswith("#"))
    lines = tuple(Line(number, index, text) for index, (number, text) in enumerate(kept))
    if not lines:
        raise InputError(f"{path} holds no prompt; expected one a line")
    is_json = path.suffix.lower() in JSON_SUFFIXES or _OBJECT.match(lines[0].text) is not None
    return PromptsFile(path, lines, is_json)


def _read(path: Path) -> str:
    """The text; bytes that are not UTF-8 become surrogates, so that a line can be named."""
    kind = look_at(path, InputError, EXPECTED)
    if kind.name in ("html", "lfs"):
        raise InputError(f"{path} is {kind}; expected {EXPECTED}")
    if kind.size > MAX_BYTES:
        raise InputError(f"{path} has {kind.size:,} bytes; expected at most {MAX_BYTES:,} in a file of prompts")
    try:
        content = path.read_bytes()
        begins_in_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16") if begins_in_utf16 else content.decode("utf-8-sig", "surrogateescape")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {path} ({reason}); expected {EXPECTED}") from error
    if "\0" in text:
        raise InputError(f"{path} is {kind}; expected {EXPECTED}")
    return text


def _parse(line: Line) -> dict[str, Any]:
    """The values of a line of JSON, checked for their names and types."""
    try:
        values = parse_json(line.text, "it", InputError, "correct it")
    except InputError as error:
        if isinstance(error.__cause__, json.JSONDecodeError):
            cause = error.__cause__
            raise InputError(f"it is not valid JSON ({cause.msg} at column {cause.colno})") from error
        raise
    for name, value in values.items():
        if name not in KEYS:
            raise InputError(f"it has the unknown key {name!r:.60}; expected {', '.join(KEYS)}")
        types, expected = KEYS[name]
        if value is not None and (not isinstance(value, types) or isinstance(value, bool)):
            raise InputError(f"{name} is {value!r:.60}; expected {expected}")
    if values.get("prompt") is None:
        raise InputError("prompt is missing; expected what to draw")
    return values


def _name(name: str) -> str:
    """A name that every file system takes. Raises InputError for others."""
    if _NOT_IN_NAMES.search(name) or name != name.strip() or not name.strip("."):
        raise InputError(f"out is {name!r:.60}; expected the name of a picture in the folder --out, such as cat.png")
    return name
