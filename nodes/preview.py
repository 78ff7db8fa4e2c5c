"""A preview picture that grows row by row."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from ..lumina_core.panels import to_image

if TYPE_CHECKING:
    from .vae import MoVQGANVae

# A preview may take this share of the time between two previews at most.
PREVIEW_SHARE = 0.2


class GrowingPreview:
    """Draws the finished rows of the first picture of a batch, each row once, on grey."""

    def __init__(self, movqgan: MoVQGANVae, grid_h: int, grid_w: int):
        self._movqgan = movqgan
        self._pixels = torch.zeros(1, 3, grid_h * movqgan.upscale_ratio, grid_w * movqgan.upscale_ratio)
        self._rows = 0
        self._next_time = 0.0

    def draw(self, codes: Tensor, rows: int) -> Image.Image | None:
        """The picture of codes [1,h,w] whose first `rows` rows are final; None when it is not worth a new one yet."""
        started = time.monotonic()
        if rows <= self._rows or started < self._next_time:
            return None
        side = self._movqgan.upscale_ratio
        strip = self._movqgan.decode_rows(codes[:, :rows], self._rows, rows)
        self._pixels[:, :, self._rows * side : rows * side] = strip
        self._rows = rows
        self._next_time = time.monotonic() + (time.monotonic() - started) / PREVIEW_SHARE
        return to_image(self._pixels)
