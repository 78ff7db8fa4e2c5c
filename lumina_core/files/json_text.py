"""JSON of a user: read from a file, parsed strictly, written without NaN."""

from __future__ import annotations

import codecs
import json
import math
from pathlib import Path
from typing import Any, NoReturn

from ..errors import CheckpointError, LuminaError
from .kind import look_at

MAX_BYTES = 2**28
# Kinds that may hold JSON; "unknown" is text that is no plain ASCII.
_TEXT = ("json", "utf16", "unknown")


def read_text(path: Path, error: type[LuminaError] = CheckpointError, expected: str = "a JSON file") -> str:
    """The UTF-8 text of a file, without a byte-order mark. Raises `error` naming what the file is instead."""
    kind = look_at(path, error, expected)
    if kind.name not in _TEXT:
        raise error(f"{path} is {kind}; expected {expected}")
    if kind.size > MAX_BYTES:
        raise error(f"{path} has {kind.size:,} bytes; expected at most {MAX_BYTES:,} in {expected}")
    try:
        with path.open("rb") as file:
            begins_in_utf16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        return path.read_text(encoding="utf-16" if begins_in_utf16 else "utf-8-sig")
    except (OSError, ValueError) as cause:
        reason = getattr(cause, "strerror", None) or cause
        raise error(f"cannot read {path} ({reason}); expected {expected} in UTF-8") from cause


def read_json(path: Path, error: type[LuminaError] = CheckpointError, expected: str = "a JSON file") -> dict[str, Any]:
    """The JSON object in a file. Raises `error` as `read_text` and `parse_json`."""
    return parse_json(read_text(path, error, expected), str(path), error)


def parse_json(
    text: str, source: str, error: type[LuminaError] = CheckpointError, fix: str = "download it again"
) -> dict[str, Any]:
    """The JSON object in a text; `source` names it in errors, which say what the `fix` is.

    Raises `error` for anything else: broken JSON, another type, nesting too deep, NaN, numbers beyond a float, strings
    that are not valid Unicode, and a key that comes twice with two values.
    """
    try:
        text = text.removeprefix("\ufeff")
        values = json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_once)
        json.dumps(values, ensure_ascii=False).encode("utf-8")  # fails for lone surrogates
    except RecursionError:
        raise error(f"{source} is nested too deeply; expected plain JSON: {fix}") from None
    except ValueError as cause:
        raise error(f"{source} is not valid JSON ({_short(cause)}); {fix}") from cause
    if not isinstance(values, dict):
        raise error(f"{source} contains a JSON {type(values).__name__}; expected an object: {fix}")
    return values


def dump_json(values: Any) -> str:
    """The JSON text of values, ASCII only; numbers that are not finite become null."""
    return json.dumps(_without_nan(values), allow_nan=False)


def _without_nan(values: Any) -> Any:
    if isinstance(values, float):
        return values if math.isfinite(values) else None
    if isinstance(values, dict):
        return {key: _without_nan(value) for key, value in values.items()}
    return [_without_nan(value) for value in values] if isinstance(values, list | tuple) else values


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        for key, value in pairs:
            if values[key] != value or type(values[key]) is not type(value):
                raise ValueError(f"the key {key[:40]!r} comes twice")
    return values


def _short(error: ValueError) -> str:
    return str(error).partition("\n")[0][:200]
