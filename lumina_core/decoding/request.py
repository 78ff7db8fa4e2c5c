"""A request: the pictures to draw in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from ..pictures.sizes import CODE_PIXELS
from .canvas import Canvas
from .settings import DecodeSettings


@dataclass(frozen=True)
class Request:
    """Pictures to draw in one batch.

    `prompts` are the token ids of each picture's prompt (the same several times for variations). `grid_h` and `grid_w`
    count the codes of the whole canvas. `given_codes` [h0,w] or [N,h0,w] are its first rows where they are given; with
    a `mask` [h,w] or [N,h,w] (bool), they are the whole grid, and only codes where it is true are drawn. `score_given`:
    the run goes on to the end after the last drawn code, so that the likelihood of the given codes is known.
    `negative_prompts` are token ids too, which the unconditional branch of each picture reads instead of nothing
    (arXiv 2207.12598 with a condition of its own). Picture k has the seed `settings.seed` + k. A window larger than
    what is left to draw is reduced to that. Raises InputError when there is no prompt, when there is nothing to draw,
    or when the given codes, the mask or the negative prompts do not match the canvas or the pictures.
    """

    prompts: Sequence[Sequence[int]]
    grid_h: int
    grid_w: int
    given_codes: Tensor | None = None
    settings: DecodeSettings = field(default_factory=DecodeSettings)
    negative_prompts: Sequence[Sequence[int]] | None = None
    mask: Tensor | None = None
    score_given: bool = False

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
        window = min(self.settings.window_size, self.canvas.tokens_left)
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

    def with_given(self, codes: Tensor) -> Request:
        """The request with the codes of a condition [N,h0,w]; with a mask, those of an upper panel are both panels'."""
        if self.mask is not None and codes.shape[-2] < self.grid_h:
            codes = torch.cat((codes, codes), -2)
        return replace(self, given_codes=codes)

    @cached_property
    def canvas(self) -> Canvas:
        """The token layout; its given rows are those that every picture has whole."""
        if self.mask is None:
            return Canvas(self.grid_h, self.grid_w, self._given.shape[1])
        rows = self.drawn.flatten(2).any(2).any(0)
        return Canvas(self.grid_h, self.grid_w, int(rows.int().argmax()))

    @cached_property
    def given(self) -> Tensor:
        """The given rows [N,h0,w] before the first code that is drawn; h0 is 0 where there are none."""
        return self._given[:, : self.canvas.given_rows]

    @cached_property
    def codes(self) -> Tensor:
        """The given codes [N,h,w], 0 where a code is drawn."""
        below = self.grid_h - self._given.shape[1]
        return torch.where(self.drawn, 0, F.pad(self._given, (0, 0, 0, below)))

    @cached_property
    def drawn(self) -> Tensor:
        """Where codes are drawn [N,h,w]."""
        shape = len(self.prompts), self.grid_h, self.grid_w
        if self.mask is None:
            row = torch.arange(self.grid_h)[:, None]
            return (row >= self._given.shape[1]).expand(shape)
        return self._checked_mask(self.mask).expand(shape)

    @property
    def last(self) -> int:
        """Index of the last token of a run: the last that is drawn in a picture, or of all."""
        if self.score_given:
            return self.canvas.last
        return self.canvas.code_index(int(self.drawn.any(0).flatten().nonzero()[-1]))

    @cached_property
    def _given(self) -> Tensor:
        """The given codes as they came, [N,h0,w]."""
        if self.given_codes is None:
            return torch.zeros(len(self.prompts), 0, self.grid_w, dtype=torch.int64)
        given = self.given_codes if self.given_codes.ndim == 3 else self.given_codes[None]
        if given.ndim != 3 or given.shape[2] != self.grid_w or given.shape[0] not in (1, len(self.prompts)):
            raise InputError(
                f"the given rows have shape {tuple(self.given_codes.shape)}; expected [rows,{self.grid_w}] or "
                f"[{len(self.prompts)},rows,{self.grid_w}], as wide as the canvas"
            )
        return given.expand(len(self.prompts), -1, -1)

    def _checked_mask(self, mask: Tensor) -> Tensor:
        """The mask [1 or N,h,w]."""
        grid = f"{self.grid_h},{self.grid_w}"
        shaped = mask if mask.ndim == 3 else mask[None]
        if mask.dtype != torch.bool or shaped.shape[1:] != (self.grid_h, self.grid_w):
            raise InputError(f"the mask is {mask.dtype} of shape {tuple(mask.shape)}; expected torch.bool of [{grid}]")
        if shaped.shape[0] not in (1, len(self.prompts)):
            raise InputError(f"{shaped.shape[0]} masks came for {len(self.prompts)} pictures; expected 1 or as many")
        if self._given.shape[1] != self.grid_h:
            raise InputError(
                f"the given codes have shape {tuple(self._given.shape)}; expected [{grid}], the whole picture with a "
                "mask"
            )
        if not bool(shaped.flatten(1).any(1).all()):
            raise InputError("the mask is empty, so there is nothing to draw; expected a mask that marks what to draw")
        return shaped

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
        return int(self.drawn.sum())
