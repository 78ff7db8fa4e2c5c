"""Files of tokens: those of whole pictures, and what was drawn of a picture that was not finished."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from ..errors import InputError
from ..files.json_text import read_json
from ..files.kind import look_at
from ..files.output_files import json_bytes, write_new
from .vocabulary import BegunPicture, Vocabulary

logger = logging.getLogger(__name__)

EXPECTED = '{"tokens": [[start, H, W, ..., end], ...]}'
KEPT_SUFFIX = ".tokens"
MOST_NAMES = 10_000
MOST_NAME_BYTES = 200


class Progress(Protocol):
    """The fields of a StepReport that say what is drawn."""

    @property
    def codes(self) -> torch.Tensor: ...
    @property
    def reached(self) -> tuple[int, ...]: ...


def read_token_lists(path: Path) -> list[list[int]]:
    """The token lists of a JSON file, at least one. Raises InputError when it holds anything else."""
    lists = read_json(path, InputError, f"a file of tokens, {EXPECTED}").get("tokens")
    if not isinstance(lists, list) or not lists or not all(isinstance(tokens, list) for tokens in lists):
        raise InputError(f"{path} contains no lists of tokens; expected {EXPECTED}")
    for number, tokens in enumerate(lists):
        for position, token in enumerate(tokens):
            if type(token) is not int:
                where = f"in list {number} of {path}"
                raise InputError(f"token {position} of the picture is {_short(token)} {where}; expected a whole number")
    return lists


def is_token_file(path: Path) -> bool:
    """Whether a file is one of tokens rather than a picture, by its name or its first bytes."""
    if path.suffix.lower() == ".json":
        return True
    try:
        return look_at(path, InputError, "a file of tokens").name == "json"
    except InputError:  # said by whoever reads the picture
        return False


def token_values(lists: Sequence[Sequence[int]]) -> dict[str, Any]:
    """The content of a file of tokens."""
    return {"tokens": [list(tokens) for tokens in lists]}


def lists_of(report: Progress, vocabulary: Vocabulary) -> list[list[int]]:
    """The tokens of each picture up to the last accepted code: header, given codes and what is drawn."""
    return [_begun_tokens(codes, count, vocabulary) for codes, count in zip(report.codes, report.reached, strict=True)]


def parse_begun(lists: Sequence[Sequence[int]], vocabulary: Vocabulary, source: str) -> list[BegunPicture]:
    """The pictures of token lists, as far as they are drawn. Raises InputError with the number of a wrong one."""
    found = []
    for number, tokens in enumerate(lists):
        try:
            found.append(vocabulary.parse_begun(tokens))
        except InputError as error:  # noqa: PERF203  (a handful of pictures)
            raise InputError(f"picture {number} of {source}: {error}") from error
    return found


def rows_to_continue(lists: Sequence[Sequence[int]], vocabulary: Vocabulary, source: str) -> BegunPicture:
    """The rows that every begun picture has: codes [N,rows,w]. Raises InputError where there are none."""
    begun = parse_begun(lists, vocabulary, source)
    grids = {(one.grid_h, one.grid_w) for one in begun}
    if len(grids) > 1:
        raise InputError(f"the pictures in {source} have different sizes; expected one size to continue them together")
    rows = min(len(one.codes) for one in begun)
    if not rows:
        raise InputError(f"{source} holds no complete row of a picture; expected at least one row: draw it anew")
    if rows < max(len(one.codes) for one in begun) == begun[0].grid_h:
        logger.warning(
            "%s holds whole pictures too: all are continued together after row %d, and the rest of the whole ones is "
            "drawn again",
            *(source, rows),
        )
    return BegunPicture(torch.stack([one.codes[:rows] for one in begun]), *grids.pop())


def keep_tokens(lists: Sequence[Sequence[int]], picture: Path, wanted: Path | None = None) -> Path:
    """Writes what was drawn of a picture that is not written, and returns where.

    It goes to `wanted`, or beside the picture as NAME.tokens.json, NAME.tokens_1.json and so on, or into the temporary
    folder where that one takes no file. Overwrites nothing. Raises InputError where nothing can be written.
    """
    content = json_bytes(token_values(lists))
    for names in (*(() if wanted is None else ([wanted],)), kept_names(picture)):
        with contextlib.suppress(InputError):
            return write_new(names, lambda file: file.write(content))
    return write_new(kept_names(Path(tempfile.gettempdir(), picture.name)), lambda file: file.write(content))


def kept_names(picture: Path) -> Iterator[Path]:
    """The names for the tokens of a picture, in the order in which they are tried."""
    stem = os.fsdecode(os.fsencode(picture.stem)[:MOST_NAME_BYTES])
    first = picture.with_name(f"{stem}{KEPT_SUFFIX}.json")
    numbered = (first.with_stem(f"{first.stem}_{number}") for number in range(1, MOST_NAMES))
    return itertools.chain([first], numbered)


def _begun_tokens(codes: torch.Tensor, count: int, vocabulary: Vocabulary) -> list[int]:
    """The tokens of the first `count` codes of a grid [h,w]; all of them with the end of the picture."""
    grid_h, grid_w = codes.shape
    if count >= grid_h * grid_w:
        return vocabulary.picture_tokens(codes)
    rows, rest = divmod(count, grid_w)
    whole = vocabulary.row_tokens(codes[:rows]) if rows else []
    begun = vocabulary.row_tokens(codes[rows : rows + 1, :rest])[:-1] if rest else []
    return [*vocabulary.header(grid_h, grid_w), *whole, *begun]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
