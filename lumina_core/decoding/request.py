"""What is asked for: pictures to draw in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..errors import InputError
from ..pictures.panels import CODE_PIXELS
from .canvas import Canvas
from .settings import DecodeSettings


@dataclass(frozen=True)
class Request:
    """Pictures to draw in one batch.

    `prompts` are the ids of each picture's prompt (several times the same for variations), `grid_h`, `grid_w` the
    codes of the whole canvas, `given_codes` [h0,w] or [N,h0,w] its first rows, where a picture is given above or an
    unfinished one is continued. Picture k has the seed `settings.seed` + k.
    """

    prompts: Sequence[Sequence[int]]
    grid_h: int
    grid_w: int
    given_codes: Tensor | None = None
    settings: DecodeSettings = field(default_factory=DecodeSettings)

    def __str__(self) -> str:
        size = f"{self.grid_w * CODE_PIXELS}x{self.grid_h * CODE_PIXELS}"
        return f"a picture of {size}" if len(self.prompts) == 1 else f"{len(self.prompts)} pictures of {size}"

    @property
    def canvas(self) -> Canvas:
        """The layout. Raises InputError for given rows that do not match it."""
        given = self._given()
        return Canvas(self.grid_h, self.grid_w, given.shape[1])

    @property
    def codes_to_draw(self) -> int:
        """Codes to sample, over all pictures."""
        return len(self.prompts) * self.canvas.codes_to_draw

    def fit_window(self) -> Request:
        """The same with a window of at most what is left to draw."""
        window = min(self.settings.window_size, self.canvas.tokens_to_draw)
        return replace(self, settings=replace(self.settings, window_size=window))

    def given(self) -> Tensor:
        """The given rows [N,h0,w]; h0 is 0 where there are none."""
        given = self._given()
        return given.expand(len(self.prompts), -1, -1)

    def _given(self) -> Tensor:
        if self.given_codes is None:
            return torch.zeros(1, 0, self.grid_w, dtype=torch.int64)
        given = self.given_codes if self.given_codes.ndim == 3 else self.given_codes[None]
        if given.ndim != 3 or given.shape[2] != self.grid_w or given.shape[0] not in (1, len(self.prompts)):
            raise InputError(
                f"the given rows have shape {tuple(self.given_codes.shape)}; expected [rows,{self.grid_w}] or "
                f"[{len(self.prompts)},rows,{self.grid_w}], as wide as the canvas"
            )
        return given
