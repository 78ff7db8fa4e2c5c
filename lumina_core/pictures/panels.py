"""Pictures in and out: reading, cropping, sizes, pixels and the given upper panel of a canvas."""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from ..errors import InputError
from ..tokens.vocabulary import picture_length

logger = logging.getLogger(__name__)

Size = tuple[int, int]
UNIT_PIXELS = 32
CODE_PIXELS = 8
PUBLISHED_MAX_SIDE = 128 * UNIT_PIXELS
_LONGEST_RESIZED = 32_768
_READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


def load_picture(path: str | Path) -> Image.Image:
    """The picture in a file, upright, as 8-bit RGB with its alpha blended on white. Raises InputError if unreadable."""
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
    """The picture as 8-bit RGB; where it has alpha a: floor(255 (1 - a) + a colour)."""
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
    """The picture at exactly `size` (width, height): shrunk or grown to cover it, then its centre.

    Halved by box filter while both sides are at least twice too long, then bicubic, as the published program does.
    """
    width, height = size
    if 0 in image.size or width < 1 or height < 1:
        raise InputError(
            f"cannot crop a picture of {_text(image.size)} to {_text(size)}; expected at least 1x1 of both"
        )
    while image.width >= 2 * width and image.height >= 2 * height:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    image = _trim_overlong(image, size)
    scale = max(width / image.width, height / image.height)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def crop_sizes(base: int) -> list[Size]:
    """Sizes (width, height) that the model was trained on around `base` squared pixels, widest first.

    With units of 32 pixels and n = (base / 32)^2: for every width w the heights n // (w+1) to n // w, no side longer
    than four times the other. Raises InputError when `base` is no positive multiple of 32.
    """
    if base < UNIT_PIXELS or base % UNIT_PIXELS:
        raise InputError(f"the base size is {base}; expected a positive multiple of {UNIT_PIXELS}")
    area = (base // UNIT_PIXELS) ** 2
    return [
        (w * UNIT_PIXELS, h * UNIT_PIXELS)
        for w in range(area, 0, -1)
        for h in range(max(1, area // (w + 1)), area // w + 1)
        if max(w, h) <= 4 * min(w, h)
    ]


def published_sizes() -> list[Size]:
    """Sizes that the published model was trained on: the crop lists of 768 and 512, and two panels of the latter."""
    small = crop_sizes(512)
    return crop_sizes(768) + small + [(width, 2 * height) for width, height in small]


def grid_size(width: int, height: int, max_tokens: int) -> tuple[int, int]:
    """Rows and columns of codes of a canvas. Raises InputError, as `check_size`, for sides that are off the grid."""
    _check_whole("width", width)
    _check_whole("height", height)
    if any(side < UNIT_PIXELS or side % UNIT_PIXELS for side in (width, height)):
        check_size(width, height, max_tokens)
    return height // CODE_PIXELS, width // CODE_PIXELS


def check_size(
    width: int,
    height: int,
    max_tokens: int,
    trained_sizes: Sequence[Size] | None = None,
    prompt_tokens: int = 0,
    max_side: int = PUBLISHED_MAX_SIDE,
) -> None:
    """Checks that a canvas of `width` by `height` pixels can be drawn, and warns when the model was not trained on it.

    Legal are multiples of 32 up to `max_side` (what the tokenizer can name) whose tokens fit `max_tokens` (the
    context) after `prompt_tokens` of text. Raises InputError that names the nearest legal size. `trained_sizes` None
    means the published ones, an empty one that none is told from another.
    """
    _check_whole("width", width)
    _check_whole("height", height)
    problem = _problem(width, height, max_tokens, prompt_tokens, max_side)
    if problem:
        nearest = nearest_size(width, height, max_tokens, prompt_tokens, max_side)
        raise InputError(
            f"the size is {width}x{height}; expected {problem}; the nearest legal size is {_text(nearest)}"
        )
    _warn_if_untrained((width, height), published_sizes() if trained_sizes is None else trained_sizes)


def nearest_size(
    width: int, height: int, max_tokens: int, prompt_tokens: int = 0, max_side: int = PUBLISHED_MAX_SIDE
) -> Size:
    """The legal size most like `width` by `height`. Raises InputError when not even 32x32 fits the context."""
    room = max_tokens - prompt_tokens
    fitting = [(w, _tallest(w, min(height, max_side), room)) for w in range(UNIT_PIXELS, max_side + 1, UNIT_PIXELS)]
    sizes = [(w, h) for w, h in fitting if h > 0]
    if not sizes:
        raise InputError(
            f"the prompt takes {prompt_tokens} tokens, which leaves no room for a picture in the context of "
            f"{max_tokens}; expected a shorter prompt"
        )
    return min(sizes, key=lambda size: _unlike(size, (width, height)))


def to_pixels(image: Image.Image) -> torch.Tensor:
    """Float32 pixels [1,3,H,W] in [-1,1] of a picture: 2 x / 255 - 1."""
    values = np.asarray(to_rgb(image)) / 255.0 * 2 - 1
    return torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1).unsqueeze(0).contiguous()


def to_image(pixels: torch.Tensor) -> Image.Image:
    """The picture of pixels [1,3,H,W] or [3,H,W], whose range [-1,1] becomes 0 to 255, rounded and clamped."""
    pixels = pixels.squeeze(0) if pixels.ndim == 4 else pixels
    if pixels.ndim != 3 or pixels.shape[0] != 3:
        raise InputError(f"pixels have shape {tuple(pixels.shape)}; expected [1,3,H,W] or [3,H,W]")
    values = ((pixels.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).cpu().contiguous().numpy())


def panel_size(width: int, height: int) -> Size:
    """Size of each panel of a canvas of two. Raises InputError when the height does not split into whole rows."""
    if height % (2 * CODE_PIXELS):
        raise InputError(f"the canvas is {width}x{height}; expected a height in multiples of {2 * CODE_PIXELS}")
    return width, height // 2


def given_size(width: int, height: int, given_height: int | None = None) -> Size:
    """Size of what is given at the top of a canvas: its upper panel, or the first `given_height` pixels of a picture.

    Raises InputError when that is no whole rows of codes, or leaves nothing to draw.
    """
    if given_height is None:
        return panel_size(width, height)
    if not 0 < given_height < height or given_height % CODE_PIXELS:
        raise InputError(
            f"the given height is {given_height}; expected a multiple of {CODE_PIXELS} from {CODE_PIXELS} to "
            f"{height - CODE_PIXELS}, below the canvas's height of {height}"
        )
    return width, given_height


def first_rows(image: Image.Image, size: Size) -> Image.Image:
    """The top of a picture at exactly `size` (width, height): the picture scaled to that width, cut to that height.

    A picture as wide as that keeps its pixels. Raises InputError when the scaled picture is not tall enough.
    """
    width, height = size
    box_height = height * image.width / width
    if box_height > image.height:
        most = image.height * width // image.width // CODE_PIXELS * CODE_PIXELS
        raise InputError(
            f"the given height is {height}; the picture of {_text(image.size)} is {most} high at the canvas's width of "
            f"{width}, in whole rows: expected at most that, or a taller picture"
        )
    return image.resize(size, Image.Resampling.BICUBIC, box=(0, 0, image.width, box_height))


def condition_panel(image: Image.Image, width: int, height: int, given_height: int | None = None) -> Image.Image:
    """The picture made fit for the top of a canvas of `width` by `height` pixels, its alpha blended on white.

    Covered and cropped for the upper panel, or, with `given_height`, the first rows of a picture to be continued.
    """
    size = given_size(width, height, given_height)
    return center_crop(to_rgb(image), size) if given_height is None else first_rows(to_rgb(image), size)


def condition_pixels(
    images: Image.Image | Sequence[Image.Image], width: int, height: int, given_height: int | None = None
) -> torch.Tensor:
    """Pixels [B,3,h,width] in [-1,1] of one condition picture or several of any sizes, each as `condition_panel`."""
    pictures = [images] if isinstance(images, Image.Image) else list(images)
    if not pictures:
        raise InputError("no condition picture came; expected at least one")
    return torch.cat([to_pixels(condition_panel(picture, width, height, given_height)) for picture in pictures])


def _unlike(size: Size, other: Size) -> float:
    """How unlike two sizes are: by the ratios of their sides, so that a size too large keeps its form."""
    return sum((math.log(side) - math.log(max(1, wanted))) ** 2 for side, wanted in zip(size, other, strict=True))


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _check_whole(name: str, side: object) -> None:
    if not isinstance(side, int) or isinstance(side, bool):
        raise InputError(f"{name} is {side!r}; expected a whole number of pixels, a multiple of {UNIT_PIXELS}")


def _problem(width: int, height: int, max_tokens: int, prompt_tokens: int, max_side: int) -> str | None:
    """What was expected of a size that is not legal, or None."""
    if any(side < UNIT_PIXELS or side % UNIT_PIXELS for side in (width, height)):
        return f"positive multiples of {UNIT_PIXELS}"
    if max(width, height) > max_side:
        return f"sides of at most {max_side}, the longest that the tokenizer can name"
    tokens = prompt_tokens + picture_length(height // CODE_PIXELS, width // CODE_PIXELS)
    if tokens > max_tokens:
        return (
            f"at most {max_tokens} tokens, the model's context, and this takes {tokens} ({prompt_tokens} the prompt's)"
        )
    return None


def _tallest(width: int, height: int, room: int) -> int:
    """The multiple of 32 nearest to `height` with which so wide a picture fits `room` tokens; 0 or less for none."""
    row, unit_rows = width // CODE_PIXELS + 1, UNIT_PIXELS // CODE_PIXELS
    fitting = (room - picture_length(0, 0)) // (unit_rows * row)
    return UNIT_PIXELS * min(max(1, round(height / UNIT_PIXELS)), fitting)


def _warn_if_untrained(size: Size, trained_sizes: Sequence[Size]) -> None:
    if trained_sizes and size not in trained_sizes:
        nearest = min(trained_sizes, key=lambda trained: _unlike(trained, size))
        logger.warning("The model was not trained on pictures of %s; the nearest is %s.", _text(size), _text(nearest))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as grey of 8; a 32-bit picture within 0 to 255 holds 8 bits already."""
    values = np.asarray(image).astype(np.int64)
    deep = image.mode != "I" or values.max() > 255
    return Image.fromarray((values // 257 if deep else values).clip(0, 255).astype(np.uint8))


def _trim_overlong(image: Image.Image, size: Size) -> Image.Image:
    """A far longer or wider picture than `size` cut to what the crop can see, so that growing it stays small."""
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
