"""Converts ComfyUI's IMAGE [B,H,W,C] in 0…1 to and from planes in [-1,1] and Pillow pictures."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..lumina_core.errors import InputError
from ..lumina_core.pictures.masks import canvas_masks

logger = logging.getLogger(__name__)

CHANNELS = (1, 3, 4)
# How far values may be outside 0…1: resampling overshoots a little, another range is far away.
NEAR, FAR = 1 / 255, 0.5


def check_image(image: Tensor) -> None:
    """Raises InputError for anything but an IMAGE of grey, RGB or RGBA with values around 0…1; warns beyond those."""
    if not isinstance(image, Tensor) or image.is_complex():
        raise InputError(f"the picture is a {type(image).__name__}; expected an IMAGE, as of Load Image")
    if image.ndim != 4 or image.shape[-1] not in CHANNELS:
        raise InputError(f"the picture has shape {tuple(image.shape)}; expected [B,H,W,C] with 1, 3 or 4 channels")
    _check_range(image, "the picture")


def check_mask(mask: Tensor) -> None:
    """Raises InputError for anything but a MASK [B,H,W] or [H,W] with values around 0…1; warns beyond those."""
    if not isinstance(mask, Tensor) or mask.is_complex() or mask.ndim not in (2, 3) or not mask.numel():
        shape = f" of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else ""
        raise InputError(f"the mask is a {type(mask).__name__}{shape}; expected a MASK [B,H,W], as of Load Image")
    _check_range(mask, "the mask")


def codes_to_draw(mask: Tensor, pictures: list[Image.Image], width: int, height: int, whole: bool = True) -> Tensor:
    """The codes [B,height/8,width/8] that a MASK of one or of every picture marks; see `canvas_masks`."""
    return canvas_masks(_mask_pictures(mask), pictures, width, height, whole)


def _mask_pictures(mask: Tensor) -> list[Image.Image]:
    """Grey pictures of a MASK. Raises InputError for anything else."""
    check_mask(mask)
    return to_pictures((mask if mask.ndim == 3 else mask[None])[..., None])


def to_planes(image: Tensor) -> Tensor:
    """Planes [B,3,H,W] in [-1,1] of an IMAGE of grey, RGB or RGBA (blended on white)."""
    check_image(image)
    image = image.float().clamp(0, 1)
    if image.shape[-1] == 4:
        alpha = image[..., 3:]
        image = image[..., :3] * alpha + (1 - alpha)
    return image.expand(*image.shape[:-1], 3).movedim(-1, 1) * 2 - 1


def from_planes(planes: Tensor) -> Tensor:
    """An IMAGE [B,H,W,3] of planes [B,3,H,W] in [-1,1]."""
    return ((planes + 1) / 2).clamp(0, 1).movedim(1, -1).contiguous()


def to_pictures(image: Tensor, mask: Tensor | None = None) -> list[Image.Image]:
    """8-bit Pillow pictures of an IMAGE; `mask` [B,H,W] is 1 where they are transparent, as from Load Image."""
    check_image(image)
    values = (_with_alpha(image, mask).float() * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    return [Image.fromarray(one.squeeze(-1) if one.shape[-1] == 1 else one) for one in values]


def from_pictures(pictures: Sequence[Image.Image]) -> Tensor:
    """An IMAGE [B,H,W,3] of RGB pictures of one size; saving it writes the same pixels."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]).astype(np.float32) / 255.0)


def _check_range(values: Tensor, name: str) -> None:
    """Raises InputError for values that are not finite or far from 0…1; those that are near are clamped, and told."""
    if not values.numel():
        return
    lowest, highest = (bound.item() for bound in values.aminmax())
    if not math.isfinite(lowest) or not math.isfinite(highest):
        broken = int((~values.isfinite()).sum())
        raise InputError(
            f"{name} holds {broken} values that are NaN or infinite, of {values.numel()}; expected 0 to 1: see which "
            "node made them (in half precision a VAE may overflow)"
        )
    found = f"{name} holds values from {lowest:.6g} to {highest:.6g}; expected 0 to 1"
    if lowest < -FAR or highest > 1 + FAR:
        raise InputError(f"{found}: scale them first (0 to 255 divided by 255; of a depth, near is 1 and far is 0)")
    if lowest < -NEAR or highest > 1 + NEAR:
        logger.warning("%s: they are clamped", found)


def _with_alpha(image: Tensor, mask: Tensor | None) -> Tensor:
    """The pictures with the mask as alpha. A mask of zeros is ignored: Load Image makes one for every picture."""
    if mask is None or not mask.any():
        return image
    mask = mask if mask.ndim == 3 else mask[None]
    if mask.shape[1:] != image.shape[1:3] or mask.shape[0] not in (1, image.shape[0]):
        raise InputError(
            f"the mask has shape {tuple(mask.shape)}; expected {tuple(image.shape[:3])}, the size of the picture, or "
            "one mask for all pictures: connect the mask that belongs to the picture, or none"
        )
    _check_range(mask, "the mask")
    alpha = (1 - mask.to(image)).expand(image.shape[:3])[..., None]
    if image.shape[-1] == 4:
        alpha = alpha * image[..., 3:]
    return torch.cat([image[..., :3].expand(*image.shape[:3], 3), alpha], -1)
