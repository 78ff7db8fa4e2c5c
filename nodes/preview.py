"""The preview of a run, which grows row by row."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from ..lumina_core.device import is_out_of_memory
from ..lumina_core.pictures.images import to_image

if TYPE_CHECKING:
    from .vae import MoVQGANVae

logger = logging.getLogger(__name__)

# Pictures of up to this many codes are previewed whole: decoding is cheap, and norms over few rows distort them.
WHOLE_CODES = 32 * 32
# Largest share of a run's time that previews take.
PREVIEW_SHARE = 0.2


class GrowingPreview:
    """Shows the finished rows of the first picture of a batch on grey."""

    def __init__(self, movqgan: MoVQGANVae, grid_h: int, grid_w: int):
        self._movqgan = movqgan
        self._whole = grid_h * grid_w <= WHOLE_CODES
        self._pixels = torch.zeros(1, 3, grid_h * movqgan.upscale_ratio, grid_w * movqgan.upscale_ratio)
        self._rows = 0
        self._next_time = 0.0
        self._off = False

    def draw(self, codes: Tensor, rows: int) -> Image.Image | None:
        """The preview of codes [1,h,w] whose first `rows` rows are final; None without a new row, or too early.

        The last preview, which stays on the node, is always drawn. Running out of memory disables the previews of the
        run, with a warning.
        """
        if self._off:
            return None
        started = time.monotonic()
        early = started < self._next_time and rows < codes.shape[1]
        if rows <= self._rows or early:
            return None
        first = 0 if self._whole else self._rows
        side = self._movqgan.upscale_ratio
        try:
            self._pixels[:, :, first * side : rows * side] = self._decode(codes, first, rows)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._off = True
            logger.warning("out of memory while decoding a preview: this run continues without previews")
            return None
        self._rows = rows
        self._next_time = time.monotonic() + (time.monotonic() - started) / PREVIEW_SHARE
        return to_image(self._pixels)

    def _decode(self, codes: Tensor, first: int, rows: int) -> Tensor:
        """Pixels of the rows `first` to `rows`. To decode a picture whole, its last final row is repeated below."""
        if not self._whole:
            return self._movqgan.decode_rows(codes[:, :rows], first, rows)
        below = codes[:, rows - 1 : rows].expand(-1, codes.shape[1] - rows, -1)
        pixels = self._movqgan.decode_rows(torch.cat([codes[:, :rows], below], 1), 0, codes.shape[1])
        return pixels[:, :, : rows * self._movqgan.upscale_ratio]
