"""Pictures in and out: reading a file, cropping, and pixels as tensors."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from ..errors import InputError
from .sizes import Size, size_text

_LONGEST_RESIZED = 32_768
_READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


def load_picture(path: str | Path) -> Image.Image:
    """The picture in a file as `to_rgb`, turned upright. Raises InputError when the file cannot be read."""
    try:
        with Image.open(path) as file:
            file.load()
            return to_rgb(ImageOps.exif_transpose(file))
    except InputError:
        raise
    except _READ_ERRORS as error:
        raise InputError(
            f"cannot read the picture {path} ({error}); expected a whole PNG, JPEG, WebP or alike"
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture as 8-bit RGB, blended on white where it has alpha a: floor(255 (1 - a) + a colour)."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    rgba = np.asarray(image.convert("RGBA"))
    if (rgba[..., 3] == 255).all():
        return image.convert("RGB")
    alpha = rgba[..., 3:] / 255.0
    return Image.fromarray(((1 - alpha) * 255 + alpha * rgba[..., :3]).astype(np.uint8))


def center_crop(image: Image.Image, size: Size) -> Image.Image:
    """The centre of the picture, scaled to cover exactly `size` (width, height).

    A box filter halves it while both sides are at least twice too long, then bicubic, as in the published program.
    """
    width, height = size
    if 0 in image.size or width < 1 or height < 1:
        raise InputError(
            f"cannot crop a picture of {size_text(image.size)} to {size_text(size)}; expected at least 1x1 of both"
        )
    while image.width >= 2 * width and image.height >= 2 * height:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    image = _trim_overlong(image, size)
    scale = max(width / image.width, height / image.height)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def to_pixels(image: Image.Image) -> torch.Tensor:
    """Pixels [1,3,H,W] (float32) in [-1,1] of a picture: 2 x / 255 - 1."""
    values = np.asarray(to_rgb(image)) / 255.0 * 2 - 1
    return torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1).unsqueeze(0).contiguous()


def to_image(pixels: torch.Tensor) -> Image.Image:
    """The picture of pixels [1,3,H,W] or [3,H,W]: [-1,1] becomes 0 to 255, rounded and clamped."""
    pixels = pixels.squeeze(0) if pixels.ndim == 4 else pixels
    if pixels.ndim != 3 or pixels.shape[0] != 3:
        raise InputError(f"pixels have shape {tuple(pixels.shape)}; expected [1,3,H,W] or [3,H,W]")
    values = ((pixels.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).cpu().contiguous().numpy())


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey; a 32-bit picture within 0 to 255 holds 8 bits already."""
    values = np.asarray(image).astype(np.int64)
    deep = image.mode != "I" or values.max() > 255
    return Image.fromarray((values // 257 if deep else values).clip(0, 255).astype(np.uint8))


def _trim_overlong(image: Image.Image, size: Size) -> Image.Image:
    """The part of a far too long picture that the crop can see, so that scaling it takes little memory."""
    scale = max(size[0] / image.width, size[1] / image.height)
    if max(image.size) * scale <= _LONGEST_RESIZED:
        return image
    margin = 8
    width, height = (
        min(side, math.ceil(wanted / scale) + margin + (side - math.ceil(wanted / scale)) % 2)
        for side, wanted in zip(image.size, size, strict=True)
    )
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
