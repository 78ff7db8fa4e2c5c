"""Picture tokens: a grid of codes to a token list and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ..errors import CheckpointError, InputError
from ..pictures.sizes import (
    CODE_PIXELS,
    CODES_PER_UNIT,
    HEADER_LENGTH,
    UNIT_PIXELS,
    SizeLimits,
    check_size,
    picture_length,
)
from .tokenizer import END_OF_ROW, END_OF_TURN, IMAGE_END, IMAGE_START, Tokenizer, grid_unit_name
from .vocabulary_map import check_vocabulary_map


class VocabularySizes(Protocol):
    """The fields of a transformer's config that a vocabulary needs."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def codebook_size(self) -> int: ...
    @property
    def image_token_offset(self) -> int: ...


@dataclass(frozen=True)
class BegunPicture:
    """The complete rows of a picture of `grid_h` by `grid_w` codes: codes [rows,grid_w] (int64), as far as it got."""

    codes: torch.Tensor
    grid_h: int
    grid_w: int


@dataclass(frozen=True)
class Vocabulary:
    """Ids of the picture tokens. `grid_units[n]` means n grid units; code c is `image_token_offset` + c.

    `end_of_turn` is None where it is no token, so that prompts end with its name as text.

    A picture is start, H, W, then h rows of w codes and an end of row, then the end; h = 4 H and w = 4 W.
    """

    image_start: int
    image_end: int
    end_of_row: int
    end_of_turn: int | None
    grid_units: tuple[int, ...]
    image_token_offset: int
    codebook_size: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, config: VocabularySizes, vocabulary_map: Any = None) -> Vocabulary:
        """The picture tokens of a checkpoint, held against the `vocabulary_map` of its config.json, if there is one.

        Raises CheckpointError when tokenizer and config do not match.
        """
        vocabulary = cls(
            image_start=tokenizer.token_id(IMAGE_START),
            image_end=tokenizer.token_id(IMAGE_END),
            end_of_row=tokenizer.token_id(END_OF_ROW),
            end_of_turn=tokenizer.end_of_turn_id,
            grid_units=_grid_units(tokenizer),
            image_token_offset=config.image_token_offset,
            codebook_size=config.codebook_size,
        )
        vocabulary._check(config)
        codes = range(vocabulary.image_token_offset, vocabulary.image_token_offset + vocabulary.codebook_size)
        check_vocabulary_map(vocabulary_map, vocabulary.special_ids, codes)
        return vocabulary

    @property
    def special_ids(self) -> dict[str, int]:
        """Ids of the special tokens by name."""
        ids = {IMAGE_START: self.image_start, IMAGE_END: self.image_end, END_OF_ROW: self.end_of_row}
        if self.end_of_turn is not None:
            ids[END_OF_TURN] = self.end_of_turn
        return ids | {grid_unit_name(units): token for units, token in enumerate(self.grid_units)}

    @property
    def max_side(self) -> int:
        """The longest side that a header can name, in pixels."""
        return UNIT_PIXELS * (len(self.grid_units) - 1)

    def header(self, grid_h: int, grid_w: int) -> list[int]:
        """[start, H, W] of a picture of `grid_h` by `grid_w` codes. Raises InputError as `check_size` does."""
        check_size(grid_w * CODE_PIXELS, grid_h * CODE_PIXELS, SizeLimits(max_side=self.max_side))
        return [self.image_start, self.grid_units[grid_h // CODES_PER_UNIT], self.grid_units[grid_w // CODES_PER_UNIT]]

    def row_tokens(self, codes: torch.Tensor) -> list[int]:
        """Tokens of codes [rows,w], each row with its end. Raises InputError for codes out of range."""
        self._check_codes(codes)
        ends = torch.full((codes.shape[0], 1), self.end_of_row, device=codes.device)
        return torch.cat([codes + self.image_token_offset, ends], dim=1).flatten().tolist()

    def picture_tokens(self, codes: torch.Tensor) -> list[int]:
        """All tokens of a picture of codes [h,w], start to end. Raises InputError for a bad size or code."""
        rows = self.row_tokens(codes)
        return [*self.header(*codes.shape), *rows, self.image_end]

    def parse_picture(self, ids: Sequence[int]) -> torch.Tensor:
        """Codes [h,w] (int64) of all tokens of a picture. Raises InputError naming the first wrong position."""
        grid_h, grid_w = self._parse_header(ids)
        expected = picture_length(grid_h, grid_w)
        if len(ids) != expected:
            raise InputError(
                f"a picture of {grid_h} rows of {grid_w} codes came with {len(ids)} tokens; expected {expected}"
            )
        return self.parse_begun(ids).codes

    def parse_begun(self, ids: Sequence[int]) -> BegunPicture:
        """The complete rows of a picture that may end anywhere after its header.

        Raises InputError naming the first wrong position, also behind the complete rows.
        """
        grid_h, grid_w = self._parse_header(ids)
        end = picture_length(grid_h, grid_w) - 1
        if len(ids) > end + 1:
            raise InputError(
                f"a picture of {grid_h} rows of {grid_w} codes came with {len(ids)} tokens; expected at most {end + 1}"
            )
        self._check_rows(ids[:end], grid_w)
        if len(ids) > end:
            _expect(ids, end, self.image_end, "the end of the picture")
        rows = (min(len(ids), end) - HEADER_LENGTH + 1) // (grid_w + 1)  # the last end of row may be missing
        body = [*ids[HEADER_LENGTH:end], self.end_of_row][: rows * (grid_w + 1)]
        tokens = torch.tensor(body, dtype=torch.int64).view(rows, grid_w + 1)
        return BegunPicture(tokens[:, :grid_w] - self.image_token_offset, grid_h, grid_w)

    def _parse_header(self, ids: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of codes that a header says."""
        if len(ids) < HEADER_LENGTH:
            raise InputError(
                f"a picture's token list has {len(ids)} tokens; expected at least its header of start, H, W"
            )
        _expect(ids, 0, self.image_start, "the start of a picture")
        return self._parse_side(ids, 1, "H"), self._parse_side(ids, 2, "W")

    def _parse_side(self, ids: Sequence[int], position: int, name: str) -> int:
        """Codes of a side of a picture."""
        if not _is_id(ids[position]) or ids[position] not in self.grid_units[1:]:
            expected = f"{name}, a token of 1 to {len(self.grid_units) - 1} grid units"
            raise InputError(f"token {position} of the picture is {ids[position]!r}; expected {expected}")
        return CODES_PER_UNIT * self.grid_units.index(ids[position])

    def _check_rows(self, ids: Sequence[int], grid_w: int) -> None:
        """Checks the tokens after the header: rows of codes, each with its end."""
        first, last = self.image_token_offset, self.image_token_offset + self.codebook_size - 1
        for position in range(HEADER_LENGTH, len(ids)):
            row, column = divmod(position - HEADER_LENGTH, grid_w + 1)
            if column == grid_w:
                _expect(ids, position, self.end_of_row, f"the end of row {row}")
            elif not (_is_id(ids[position]) and first <= ids[position] <= last):
                raise InputError(
                    f"token {position} of the picture is {ids[position]!r}; expected an image code, {first} to {last}"
                )

    def _check_codes(self, codes: torch.Tensor) -> None:
        if codes.ndim != 2 or 0 in codes.shape or codes.is_floating_point():
            raise InputError(f"codes are {codes.dtype} {tuple(codes.shape)}; expected integers [rows,columns]")
        low, high = int(codes.min()), int(codes.max())
        if low < 0 or high >= self.codebook_size:
            raise InputError(f"codes run from {low} to {high}; expected 0 to {self.codebook_size - 1}")

    def _check(self, config: VocabularySizes) -> None:
        end = self.image_token_offset + self.codebook_size
        if end > config.vocab_size:
            raise CheckpointError(
                f"vocab_size is {config.vocab_size}; expected at least {end}: "
                f"image_token_offset {self.image_token_offset} + codebook of {self.codebook_size}"
            )
        names: dict[int, str] = {}
        for name, token in self.special_ids.items():
            if other := names.get(token):
                raise CheckpointError(f"{other} and {name} both have the id {token}; expected one id for each token")
            names[token] = name
            if token >= config.vocab_size or self.image_token_offset <= token < end:
                expected = (
                    f"below {config.vocab_size} and outside the image codes {self.image_token_offset} to {end - 1}"
                )
                raise CheckpointError(f"a special token, {name}, has id {token}; expected one {expected}")


def _grid_units(tokenizer: Tokenizer) -> tuple[int, ...]:
    ids: list[int] = []
    while tokenizer.has_token(grid_unit_name(len(ids))):
        ids.append(tokenizer.token_id(grid_unit_name(len(ids))))
    return tuple(ids)


def _is_id(value: object) -> bool:
    """Whether a value is a whole number, and no truth value or float that equals one."""
    return type(value) is int


def _expect(ids: Sequence[int], position: int, expected: int, meaning: str) -> None:
    if not _is_id(ids[position]) or ids[position] != expected:
        raise InputError(f"token {position} of the picture is {ids[position]!r}; expected {expected}, {meaning}")
