"""The layout of one picture's tokens."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..vocabulary import HEADER_LENGTH


@dataclass(frozen=True)
class Canvas:
    """A picture to draw: h rows of w codes, each row with its end, behind a header; the first rows may be given.

    `header` holds the ids [start, H, W], `given_codes` [h0,w] the rows in front (None: none). Indices count from the
    start token. The very last end of row and the end of the picture are known and never needed as input.
    """

    header: tuple[int, ...]
    end_of_row: int
    grid_h: int
    grid_w: int
    given_codes: Tensor | None = None

    def __post_init__(self) -> None:
        given = self.given_codes
        if given is None:
            return
        if given.ndim != 2 or given.shape[1] != self.grid_w or not 0 < given.shape[0] < self.grid_h:
            raise InputError(
                f"the given rows have shape {tuple(given.shape)}; expected 1 to {self.grid_h - 1} rows of "
                f"{self.grid_w} codes: at least one row must be left to draw"
            )

    @property
    def given_rows(self) -> int:
        return 0 if self.given_codes is None else self.given_codes.shape[0]

    @property
    def first(self) -> int:
        """Index of the first token that is drawn."""
        return HEADER_LENGTH + self.given_rows * (self.grid_w + 1)

    @property
    def end(self) -> int:
        """Index behind the last token that is drawn."""
        return HEADER_LENGTH + self.grid_h * (self.grid_w + 1) - 1

    @property
    def codes_to_draw(self) -> int:
        return (self.grid_h - self.given_rows) * self.grid_w

    def is_forced(self, length: int) -> Tensor:
        """Whether each index below `length` is no code that is drawn: header, ends of row, behind the end."""
        index = torch.arange(length)
        end_of_row = (index - HEADER_LENGTH) % (self.grid_w + 1) == self.grid_w
        return (index < HEADER_LENGTH) | end_of_row | (index >= self.end)

    def known_ids(self, offset: int) -> list[int]:
        """Ids of the header and the given rows, codes starting at `offset`."""
        if self.given_codes is None:
            return list(self.header)
        rows = self.given_codes.cpu() + offset
        ends = torch.full((self.given_rows, 1), self.end_of_row)
        return [*self.header, *torch.cat((rows, ends), 1).flatten().tolist()]

    def cut_codes(self, tokens: Tensor) -> Tensor:
        """The grid [N,h,w] out of values [N,≥end] by index."""
        body = tokens[:, HEADER_LENGTH : self.end]
        body = torch.nn.functional.pad(body, (0, 1))
        return body.unflatten(1, (self.grid_h, self.grid_w + 1))[:, :, : self.grid_w]

    def count_codes(self, index: int) -> int:
        """Drawn codes before `index`."""
        row, column = divmod(index - self.first, self.grid_w + 1)
        return row * self.grid_w + min(column, self.grid_w)
