"""The layout of one picture's tokens."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..kernels.window_state import Layout
from ..pictures.sizes import HEADER_LENGTH


@dataclass(frozen=True)
class Canvas:
    """A picture to draw: a header, then h rows of w codes, each with an end of row; the first rows may be given.

    Indices count from the start token. Codes after the first rows may be given too; the canvas knows nothing of them.
    The last end of row and the end of the picture are known and never an input. Raises InputError when the given rows
    leave nothing to draw.
    """

    grid_h: int
    grid_w: int
    given_rows: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.given_rows < self.grid_h:
            raise InputError(
                f"{self.given_rows} rows are given; expected at most {self.grid_h - 1} of {self.grid_h}: at least one "
                "row must be left to draw"
            )

    @property
    def row_length(self) -> int:
        """Tokens of a row, its end included."""
        return self.grid_w + 1

    @property
    def first(self) -> int:
        """Index of the first token after the given rows."""
        return HEADER_LENGTH + self.given_rows * self.row_length

    @property
    def last(self) -> int:
        """Index of the last code."""
        return HEADER_LENGTH + self.grid_h * self.row_length - 2

    @property
    def tokens_left(self) -> int:
        """Codes after the given rows, and the ends of row between them."""
        return self.last + 1 - self.first

    @property
    def layout(self) -> Layout:
        """Where the ends of row are."""
        return Layout(HEADER_LENGTH, self.row_length, self.last)

    def place_codes(self, codes: Tensor, length: int) -> Tensor:
        """Values [N,length] by index of the first rows [N,rows,w] of a grid; zero at all other tokens."""
        rows = torch.nn.functional.pad(codes, (0, 1)).flatten(1)
        return torch.nn.functional.pad(rows, (HEADER_LENGTH, length - HEADER_LENGTH - rows.shape[1]))

    def cut_codes(self, values: Tensor) -> Tensor:
        """The grid [N,h,w] of values [N,≥last+2] by index."""
        body = values[:, HEADER_LENGTH : self.last + 2]
        return body.unflatten(1, (self.grid_h, self.row_length))[:, :, : self.grid_w]

    def count_codes(self, index: int) -> int:
        """Codes of the grid before `index`."""
        row, column = divmod(index - HEADER_LENGTH, self.row_length)
        return row * self.grid_w + min(column, self.grid_w)

    def code_index(self, code: int) -> int:
        """Index of a code, counted row by row."""
        row, column = divmod(code, self.grid_w)
        return HEADER_LENGTH + row * self.row_length + column

    def accept_lengths(self, accept_step: Tensor) -> tuple[tuple[int, ...], ...]:
        """Tokens that each forward accepted, picture by picture.

        `accept_step` [N,≥last+1], by index, is the forward that accepted a token, −1 where none has; 0 stands for the
        prefill.
        """
        accepted = accept_step[:, self.first : self.last + 1]
        return tuple(tuple(torch.bincount(steps[steps >= 0])[1:].tolist()) for steps in accepted)
