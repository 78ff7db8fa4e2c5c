"""MoVQGAN with the memory that there is: a picture whole where it fits, else in strips of rows."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..device import explain_out_of_memory, free_bytes, gigabytes
from ..errors import OutOfMemory
from .autoencoder import MoVQGAN
from .config import STRIP_ROWS

logger = logging.getLogger(__name__)


def decode_picture(movqgan: MoVQGAN, codes: Tensor, free: float | None = None) -> Tensor:
    """Pixels [1,3,H,W] of codes [1,h,w] on the MoVQGAN's device, as `MoVQGAN.decode`.

    Whole where that fits `free` bytes (default: what the device has free), else, or when memory runs out all the same,
    in strips. Raises OutOfMemory when strips do not fit either.
    """
    work = _Work("decoding", movqgan, codes.shape[1], codes.shape[2], codes.device)
    return work.run(lambda rows: movqgan.decode(codes, rows), free)


def encode_picture(movqgan: MoVQGAN, pixels: Tensor, free: float | None = None) -> Tensor:
    """Codes [1,h,w] of pixels [1,3,H,W] in [-1,1], as `MoVQGAN.encode`; memory as in `decode_picture`."""
    grid_h, grid_w = (side // movqgan.config.downscale for side in pixels.shape[-2:])
    work = _Work("encoding", movqgan, grid_h, grid_w, pixels.device)
    return work.run(lambda rows: movqgan.encode(pixels, rows), free)


@dataclass(frozen=True)
class _Work:
    """What is done with a picture of grid_h × grid_w codes."""

    name: str
    movqgan: MoVQGAN
    grid_h: int
    grid_w: int
    device: torch.device

    def run(self, make: Callable[[int | None], Tensor], free: float | None) -> Tensor:
        """What `make(strip_rows)` gives, whole (None) or in strips."""
        free = free_bytes(self.device) if free is None else free
        if free is None or self._bytes(None) <= free:
            try:
                return explain_out_of_memory(lambda: make(None), lambda: f"out of memory while {self} whole")
            except OutOfMemory as error:
                logger.warning("%s: going on in strips, which give the same picture", error)
        else:
            logger.info("%s in strips: whole it takes %s and %s are free", self, self._size(None), gigabytes(free))
        return explain_out_of_memory(lambda: make(STRIP_ROWS), self._refusal)

    def _refusal(self) -> str:
        return (
            f"out of memory while {self}, which takes about {self._size(None)} whole and {self._size(STRIP_ROWS)} in "
            "strips beside the weights, and strips did not fit either; close what else uses the memory, work on the "
            "CPU, or use a smaller picture"
        )

    def _bytes(self, strip_rows: int | None) -> int:
        return self.movqgan.config.picture_bytes(self.grid_h, self.grid_w, self.movqgan.dtype.itemsize, strip_rows)

    def _size(self, strip_rows: int | None) -> str:
        return gigabytes(self._bytes(strip_rows))

    def __str__(self) -> str:
        side = self.movqgan.config.downscale
        return f"{self.name} a picture of {self.grid_w * side}x{self.grid_h * side}"
