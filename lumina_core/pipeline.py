"""From a request to codes: the prompt's ids, the canvas, the checks, the drawing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .config import TransformerConfig
from .decoding import Canvas, DecodeResult, DecodeSettings, Prefix, StepReport, cache_length, check_window, decode
from .errors import InputError
from .model import KVCache, Transformer
from .panels import CODE_PIXELS, UNIT_PIXELS, Size, check_size
from .vocabulary import CODES_PER_UNIT, HEADER_LENGTH, Vocabulary

__all__ = ["DecodeSettings", "Request", "StepReport", "check_request", "draw", "run_bytes"]


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

    @property
    def canvas(self) -> Canvas:
        """The layout. Raises InputError for given rows that do not match it."""
        given = self._given()
        return Canvas(self.grid_h, self.grid_w, given.shape[1])

    @property
    def codes_to_draw(self) -> int:
        """Codes to sample, over all pictures."""
        return len(self.prompts) * self.canvas.codes_to_draw

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


def check_request(request: Request, config: TransformerConfig, vocabulary: Vocabulary) -> None:
    """Raises InputError for anything in a request that the model cannot draw; warns about untrained sizes."""
    _check(request, config, vocabulary, config.trained_sizes)


def _check(
    request: Request, config: TransformerConfig, vocabulary: Vocabulary, trained_sizes: Sequence[Size] | None
) -> None:
    if not request.prompts:
        raise InputError("no prompt came; expected one for each picture")
    longest = max(map(len, request.prompts))
    width, height = request.grid_w * CODE_PIXELS, request.grid_h * CODE_PIXELS
    max_side = vocabulary.max_units * UNIT_PIXELS
    check_size(width, height, config.max_position_embeddings, trained_sizes, longest, max_side)
    check_window(request.canvas, request.settings)


def draw(
    transformer: Transformer,
    vocabulary: Vocabulary,
    request: Request,
    on_step: Callable[[StepReport], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> DecodeResult:
    """Draws a request's pictures; both callbacks as in `decode`. Raises InputError before any work, and Cancelled.

    Checks as `check_request` does, but leaves the warning to it.
    """
    _check(request, transformer.config, vocabulary, trained_sizes=())
    given = request.given()
    header = vocabulary.header(request.grid_h // CODES_PER_UNIT, request.grid_w // CODES_PER_UNIT)
    prefixes = [
        Prefix(tuple(prompt), (*header, *(vocabulary.row_tokens(rows) if len(rows) else ())))
        for prompt, rows in zip(request.prompts, given, strict=True)
    ]
    return decode(
        transformer,
        request.canvas,
        prefixes,
        given,
        vocabulary.end_of_row,
        request.settings,
        on_step,
        should_cancel,
    )


def run_bytes(config: TransformerConfig, dtype: torch.dtype, request: Request) -> int:
    """About what a run takes beside the weights: the key/value cache, and its widest forward."""
    settings, longest = request.settings, max(map(len, request.prompts))
    rows = len(request.prompts) * (2 if settings.guided else 1)
    cache = KVCache.bytes_needed(config, rows, cache_length(request.canvas, longest, settings), dtype)
    widest = 3 * config.intermediate_size + 8 * config.hidden_size
    prefill = (longest + HEADER_LENGTH + request.given().shape[1] * (request.grid_w + 1)) * widest * dtype.itemsize
    window = rows * settings.width * (widest * dtype.itemsize + 8 * config.codebook_size * 4)
    return cache + max(prefill, window)
