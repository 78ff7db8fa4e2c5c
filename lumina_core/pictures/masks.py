"""Masks: which codes of a picture are drawn, and the picture's own pixels kept around them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from .images import center_crop, to_rgb
from .sizes import CODE_PIXELS, Size, size_text

logger = logging.getLogger(__name__)

# Values of a mask from here on are drawn.
DRAWN = 0.5
# Pixels over which a difference at the border fades out inside the mask.
SEAM = 16


def mask_of_codes(mask: Tensor, grid_h: int, grid_w: int) -> Tensor:
    """Which codes [N,grid_h,grid_w] are drawn by a mask [N,H,W] in 0…1: those with a pixel of at least DRAWN.

    A mask of another size is stretched over the grid, which is logged. Raises InputError for a mask that is empty or
    holds other values.
    """
    low, high = (float(bound) for bound in mask.float().aminmax()) if mask.numel() else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        raise InputError(f"the mask holds values from {low:g} to {high:g}; expected 0 (keep) to 1 (draw)")
    size, expected = (mask.shape[2], mask.shape[1]), (grid_w * CODE_PIXELS, grid_h * CODE_PIXELS)
    if size not in (expected, (grid_w, grid_h)):
        logger.warning("The mask is %s and the canvas %s: it is scaled.", size_text(size), size_text(expected))
    codes = F.adaptive_max_pool2d(mask.float()[:, None], (grid_h, grid_w))[:, 0] >= DRAWN
    if not (len(codes) and bool(codes.flatten(1).any(1).all())):
        raise InputError("the mask is empty, so there is nothing to draw; mark what to draw in white")
    if bool(codes.all()):
        logger.warning("The mask covers the whole picture: nothing of it is kept.")
    return codes


def canvas_mask(mask: Image.Image, picture: Size, width: int, height: int, whole: bool = True) -> Tensor:
    """The codes [1,height/8,width/8] of a canvas that a mask picture marks in white, cropped as its `picture` is.

    Unless it is of the `whole` canvas, it is one of the lower panel.

    A mask of another size than the picture's is scaled to it, which is logged. Raises InputError as `mask_of_codes`.
    """
    if not isinstance(mask, Image.Image):
        raise InputError(f"the mask is {type(mask).__name__}; expected a Pillow picture, as of load_picture")
    grey = to_rgb(mask, "the mask")
    if grey.size != picture:
        logger.warning("The mask is %s and its picture %s: it is scaled.", size_text(grey.size), size_text(picture))
        grey = grey.resize(picture, Image.Resampling.BILINEAR)
    panel_height = height if whole else height // 2
    levels = center_crop(grey, (width, panel_height)).convert("L")
    values = torch.frombuffer(bytearray(levels.tobytes()), dtype=torch.uint8).view(1, panel_height, width) / 255
    codes = mask_of_codes(values, panel_height // CODE_PIXELS, width // CODE_PIXELS)
    return codes if whole else torch.cat((torch.zeros_like(codes), codes), 1)


def canvas_masks(
    masks: Sequence[Image.Image], pictures: Sequence[Image.Image], width: int, height: int, whole: bool = True
) -> Tensor:
    """As `canvas_mask`, of several pictures [N,height/8,width/8] and one mask, or one for each. Raises InputError."""
    if len(masks) not in (1, len(pictures)):
        raise InputError(f"{len(masks)} masks came for {len(pictures)} pictures; expected 1 or as many")
    pairs = zip(masks if len(masks) > 1 else [masks[0]] * len(pictures), pictures, strict=True)
    return torch.cat([canvas_mask(mask, picture.size, width, height, whole) for mask, picture in pairs])


def pixels_of_mask(codes: Tensor) -> Tensor:
    """The pixels [N,H,W] of masked codes [N,h,w]."""
    return codes.repeat_interleave(CODE_PIXELS, -2).repeat_interleave(CODE_PIXELS, -1)


def keep_outside(drawn: Tensor, own: Tensor, codes: Tensor) -> Tensor:
    """Pictures [N,C,H,W] with the `own` pixels outside of masked codes [N,h,w] and the drawn ones inside, seamlessly.

    At the border the codec has changed the own pixels a little. That difference is added inside, where it fades out
    over SEAM pixels. Own pixels of an upper panel are both panels'.
    """
    if own.shape[-2] < drawn.shape[-2]:
        own = torch.cat((own, own), -2)
    inside = pixels_of_mask(codes)[:, None]
    outside = (~inside).to(drawn)
    share = _mean_around(outside)
    difference = _mean_around((own - drawn) * outside) / share.clamp_min(1e-6)
    return torch.where(inside, drawn + difference * (2 * share).clamp_max(1), own)


def _mean_around(values: Tensor) -> Tensor:
    """The mean of the pixels of [N,C,H,W] that are at most SEAM away in both directions."""
    return F.avg_pool2d(values, 2 * SEAM + 1, stride=1, padding=SEAM, count_include_pad=False)
