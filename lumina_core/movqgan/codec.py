"""Decodes and encodes pictures in the free memory: whole where they fit, else in strips of rows."""

from __future__ import annotations

import logging
from collections.abc import Callable

from torch import Tensor

from ..device import explain_out_of_memory, free_bytes, gigabytes
from ..errors import OutOfMemory
from ..host.threads import threads_for
from .autoencoder import MoVQGAN
from .config import STRIP_ROWS

logger = logging.getLogger(__name__)


def decode_picture(movqgan: MoVQGAN, codes: Tensor, free: float | None = None) -> Tensor:
    """Pixels [1,3,H,W] of codes [1,h,w] on the MoVQGAN's device, as `MoVQGAN.decode`.

    Whole where that fits `free` bytes (default: what the device has free). In strips where it does not, or where an
    allocation fails. Raises OutOfMemory when strips do not fit either.
    """
    grid_h, grid_w = codes.shape[-2:]
    free = free_bytes(codes.device) if free is None else free
    return _whole_or_in_strips("decoding", lambda rows: movqgan.decode(codes, rows), movqgan, grid_h, grid_w, free)


def encode_picture(movqgan: MoVQGAN, pixels: Tensor, free: float | None = None) -> Tensor:
    """Codes [1,h,w] of pixels [1,3,H,W] in [-1,1], as `MoVQGAN.encode`; memory as in `decode_picture`."""
    grid_h, grid_w = (side // movqgan.config.downscale for side in pixels.shape[-2:])
    free = free_bytes(pixels.device) if free is None else free
    return _whole_or_in_strips("encoding", lambda rows: movqgan.encode(pixels, rows), movqgan, grid_h, grid_w, free)


def _whole_or_in_strips(
    task: str, run: Callable[[int | None], Tensor], movqgan: MoVQGAN, grid_h: int, grid_w: int, free: float | None
) -> Tensor:
    """The result of `run(strip_rows)`; `free` None means that the free memory is unknown."""
    with threads_for(movqgan.config.multiplications(grid_h, grid_w), movqgan.weight_device):
        return _in_memory(task, run, movqgan, grid_h, grid_w, free)


def _in_memory(
    task: str, run: Callable[[int | None], Tensor], movqgan: MoVQGAN, grid_h: int, grid_w: int, free: float | None
) -> Tensor:
    side, item_bytes = movqgan.config.downscale, movqgan.dtype.itemsize
    whole, strips = (movqgan.config.picture_bytes(grid_h, grid_w, item_bytes, rows) for rows in (None, STRIP_ROWS))
    picture = f"a picture of {grid_w * side}x{grid_h * side}"
    elsewhere = "" if movqgan.weight_device.type == "cpu" else "run on the CPU, "
    if free is None or whole <= free:
        try:
            return explain_out_of_memory(lambda: run(None), lambda: f"out of memory while {task} {picture} whole")
        except OutOfMemory as error:
            logger.warning("%s: retrying in strips, which returns the same picture", error)
    else:
        sizes = gigabytes(whole), gigabytes(free)
        logger.info("%s %s in strips: whole it takes %s and %s are free", task, picture, *sizes)
    return explain_out_of_memory(
        lambda: run(STRIP_ROWS),
        lambda: (
            f"out of memory while {task} {picture}, which takes about {gigabytes(whole)} whole and "
            f"{gigabytes(strips)} in strips, without the weights; strips did not fit either: close other programs "
            f"that use the memory, {elsewhere}or use a smaller picture"
        ),
    )
