"""Picture tokens: a grid of codes to a token list and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

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


class VocabularySizes(Protocol):
    """The fields of a transformer's config that a vocabulary needs."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def codebook_size(self) -> int: ...
    @property
    def image_token_offset(self) -> int: ...


@dataclass(frozen=True)
class Vocabulary:
    """Ids of the picture tokens. `grid_units[n]` means n grid units; code c is `image_token_offset` + c.

    A picture is start, H, W, then h rows of w codes and an end of row, then the end; h = 4 H and w = 4 W.
    """

    image_start: int
    image_end: int
    end_of_row: int
    end_of_turn: int
    grid_units: tuple[int, ...]
    image_token_offset: int
    codebook_size: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, config: VocabularySizes) -> Vocabulary:
        """The picture tokens of a checkpoint. Raises CheckpointError when tokenizer and config do not match."""
        vocabulary = cls(
            image_start=tokenizer.token_id(IMAGE_START),
            image_end=tokenizer.token_id(IMAGE_END),
            end_of_row=tokenizer.token_id(END_OF_ROW),
            end_of_turn=tokenizer.token_id(END_OF_TURN),
            grid_units=_grid_units(tokenizer),
            image_token_offset=config.image_token_offset,
            codebook_size=config.codebook_size,
        )
        vocabulary._check(config)
        return vocabulary

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
        if len(ids) < HEADER_LENGTH:
            raise InputError(
                f"a picture's token list has {len(ids)} tokens; expected at least its header of start, H, W"
            )
        _expect(ids, 0, self.image_start, "the start of a picture")
        grid_h, grid_w = (self._parse_side(ids, position, name) for position, name in ((1, "H"), (2, "W")))
        expected = picture_length(grid_h, grid_w)
        if len(ids) != expected:
            raise InputError(
                f"a picture of {grid_h} rows of {grid_w} codes came with {len(ids)} tokens; expected {expected}"
            )
        codes = self._parse_rows(ids, grid_h, grid_w)
        _expect(ids, expected - 1, self.image_end, "the end of the picture")
        return codes

    def _parse_side(self, ids: Sequence[int], position: int, name: str) -> int:
        """Codes of a side of a picture."""
        if ids[position] not in self.grid_units[1:]:
            expected = f"{name}, a token of 1 to {len(self.grid_units) - 1} grid units"
            raise InputError(f"token {position} of the picture is {ids[position]!r}; expected {expected}")
        return CODES_PER_UNIT * self.grid_units.index(ids[position])

    def _parse_rows(self, ids: Sequence[int], grid_h: int, grid_w: int) -> torch.Tensor:
        first, last = self.image_token_offset, self.image_token_offset + self.codebook_size - 1
        for position in range(HEADER_LENGTH, len(ids) - 1):
            row, column = divmod(position - HEADER_LENGTH, grid_w + 1)
            if column == grid_w:
                _expect(ids, position, self.end_of_row, f"the end of row {row}")
            elif not (isinstance(ids[position], int) and first <= ids[position] <= last):
                raise InputError(
                    f"token {position} of the picture is {ids[position]!r}; expected an image code, {first} to {last}"
                )
        rows = torch.tensor(ids[HEADER_LENGTH:-1], dtype=torch.int64).view(grid_h, grid_w + 1)
        return rows[:, :grid_w] - first

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
        for token in (self.image_start, self.image_end, self.end_of_row, self.end_of_turn, *self.grid_units):
            if token >= config.vocab_size or self.image_token_offset <= token < end:
                expected = (
                    f"below {config.vocab_size} and outside the image codes {self.image_token_offset} to {end - 1}"
                )
                raise CheckpointError(f"a special token has id {token}; expected one {expected}")


def _grid_units(tokenizer: Tokenizer) -> tuple[int, ...]:
    ids: list[int] = []
    while tokenizer.has_token(grid_unit_name(len(ids))):
        ids.append(tokenizer.token_id(grid_unit_name(len(ids))))
    return tuple(ids)


def _expect(ids: Sequence[int], position: int, expected: int, meaning: str) -> None:
    if ids[position] != expected:
        raise InputError(f"token {position} of the picture is {ids[position]!r}; expected {expected}, {meaning}")
