"""A request: the pictures to draw in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from ..errors import InputError
from ..pictures.sizes import CODE_PIXELS
from .canvas import Canvas
from .settings import DecodeSettings


@dataclass(frozen=True)
class Request:
    """Pictures to draw in one batch.

    `prompts` are the token ids of each picture's prompt (the same several times for variations). `grid_h` and `grid_w`
    count the codes of the whole canvas. `given_codes` [h0,w] or [N,h0,w] are its first rows where they are given.
    Picture k has the seed `settings.seed` + k. A window larger than what is left to draw is reduced to that.
    `negative_prompts` are token ids too, which the unconditional branch of each picture reads instead of nothing
    (arXiv 2207.12598 with a condition of its own). Raises InputError when there is no prompt, or when the given rows or
    the negative prompts do not match the canvas or the pictures.
    """

    prompts: Sequence[Sequence[int]]
    grid_h: int
    grid_w: int
    given_codes: Tensor | None = None
    settings: DecodeSettings = field(default_factory=DecodeSettings)
    negative_prompts: Sequence[Sequence[int]] | None = None

    def __post_init__(self) -> None:
        if not self.prompts:
            raise InputError("the request has no prompt; expected one for each picture")
        if min(self.grid_h, self.grid_w) < 1:
            size = f"{self.grid_w * CODE_PIXELS}x{self.grid_h * CODE_PIXELS}"
            raise InputError(f"the size is {size}; expected at least one row and one column of codes")
        if self.negative_prompts is not None and len(self.negative_prompts) != len(self.prompts):
            raise InputError(
                f"the request has {len(self.negative_prompts)} negative prompts; expected {len(self.prompts)}, one for "
                "each picture"
            )
        window = min(self.settings.window_size, self.canvas.tokens_to_draw)
        object.__setattr__(self, "settings", self.settings.at_window(window))

    def __str__(self) -> str:
        size = f"{self.grid_w * CODE_PIXELS}x{self.grid_h * CODE_PIXELS}"
        return f"a picture of {size}" if len(self.prompts) == 1 else f"{len(self.prompts)} pictures of {size}"

    @property
    def rows(self) -> int:
        """Sequences in a forward: pictures, twice with guidance."""
        return len(self.prompts) * (2 if self.settings.guided else 1)

    def with_tree(self, by_kernels: bool) -> Request:
        """The request with a draft tree where it is left to the device. See `DecodeSettings.with_tree`."""
        return replace(self, settings=self.settings.with_tree(self.rows, by_kernels))

    @cached_property
    def canvas(self) -> Canvas:
        """The token layout."""
        return Canvas(self.grid_h, self.grid_w, self.given.shape[1])

    @cached_property
    def given(self) -> Tensor:
        """The given rows [N,h0,w]; h0 is 0 where there are none."""
        if self.given_codes is None:
            return torch.zeros(len(self.prompts), 0, self.grid_w, dtype=torch.int64)
        given = self.given_codes if self.given_codes.ndim == 3 else self.given_codes[None]
        if given.ndim != 3 or given.shape[2] != self.grid_w or given.shape[0] not in (1, len(self.prompts)):
            raise InputError(
                f"the given rows have shape {tuple(self.given_codes.shape)}; expected [rows,{self.grid_w}] or "
                f"[{len(self.prompts)},rows,{self.grid_w}], as wide as the canvas"
            )
        return given.expand(len(self.prompts), -1, -1)

    @property
    def row_prompts(self) -> tuple[Sequence[int], ...]:
        """The prompt of each sequence in a forward: of the pictures, then of their unconditional branches."""
        if not self.settings.guided:
            return tuple(self.prompts)
        return *self.prompts, *(self.negative_prompts or [()] * len(self.prompts))

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt of a sequence, negative ones included."""
        return max(map(len, self.row_prompts))

    @property
    def codes_to_draw(self) -> int:
        """Codes to sample, over all pictures."""
        return len(self.prompts) * self.canvas.codes_to_draw
