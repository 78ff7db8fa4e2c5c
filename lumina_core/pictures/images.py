"""Pictures in and out: a file as RGB, alpha, cropping, and pixels as tensors."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..errors import InputError
from .levels import eight_bits, is_deep, tiles, warn_if_channels_are_dark
from .reading import decoder_error, note_depth, read_picture
from .sizes import Size, size_text

_LONGEST_RESIZED = 32_768
_ALPHA_MODES, _COLOUR_KEY_MODES = ("LA", "La", "PA", "RGBA", "RGBa"), ("1", "L", "P", "RGB")


def load_picture(path: str | Path) -> Image.Image:
    """The picture in a file as `to_rgb`, turned upright; of several frames the first.

    Raises InputError when the file is not read as `read_picture`, or its values are in no range of `to_rgb`.
    """
    return to_rgb(read_picture(Path(path)), f"the picture {path}")


def to_rgb(image: Image.Image, name: str = "the picture") -> Image.Image:
    """The picture as 8-bit RGB, blended on white where it has alpha a: floor(255 (1 - a) + a colour).

    Grey of 16 or 32 bits and of floats is scaled as `eight_bits`. Raises InputError, which says `name`, for
    values in no known range and for a picture that cannot be decoded.
    """
    _load(image, name)
    try:
        warn_if_channels_are_dark(image, name)
        image = eight_bits(image, name) if is_deep(image) else image
        if _has_alpha(image):
            return _on_white(image)
        return image if image.mode == "RGB" else image.convert("RGB")
    except InputError:
        raise
    except Exception as error:  # memory may run out
        raise InputError(f"cannot read {name}: {decoder_error(error)}; expected a whole picture") from error


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
    levels = (np.arange(256) / 255.0 * 2 - 1).astype(np.float32)
    return torch.from_numpy(levels[np.asarray(to_rgb(image))]).permute(2, 0, 1).unsqueeze(0).contiguous()


def to_image(pixels: torch.Tensor) -> Image.Image:
    """The picture of pixels [1,3,H,W] or [3,H,W]: [-1,1] becomes 0 to 255, rounded and clamped."""
    pixels = pixels.squeeze(0) if pixels.ndim == 4 else pixels
    if pixels.ndim != 3 or pixels.shape[0] != 3:
        raise InputError(f"pixels have shape {tuple(pixels.shape)}; expected [1,3,H,W] or [3,H,W]")
    values = ((pixels.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).cpu().contiguous().numpy())


def _load(image: Image.Image, name: str) -> None:
    """Decodes a picture that the caller opened."""
    try:
        note_depth(image, name)
        image.load()
    except Exception as error:  # decoders raise anything
        reason = error if isinstance(error, InputError) else decoder_error(error)
        raise InputError(f"cannot read {name}: {reason}; expected a whole picture") from error


def _has_alpha(image: Image.Image) -> bool:
    """Whether the picture has an alpha channel, a palette with alpha, or a transparent colour."""
    if image.mode not in _ALPHA_MODES and "transparency" in image.info:
        return image.mode in _COLOUR_KEY_MODES
    return image.has_transparency_data


def _on_white(image: Image.Image) -> Image.Image:
    """RGB of a picture with alpha, tile by tile."""
    levels = np.arange(256)
    alpha = levels[:, None] / 255.0
    blended = ((1 - alpha) * 255 + alpha * levels).astype(np.uint8).ravel()
    result = Image.new("RGB", image.size)
    for box, tile in tiles(image):
        rgba = np.asarray((tile.convert("LA") if tile.mode == "La" else tile).convert("RGBA"))
        index = rgba[..., 3:].astype(np.uint16) * 256 + rgba[..., :3]
        result.paste(Image.fromarray(blended[index]), box)
    return result


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
