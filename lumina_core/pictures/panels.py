"""What is given at the top of a canvas: its upper panel, or the first rows of a picture to be continued."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from ..errors import InputError
from .images import center_crop, to_pixels, to_rgb
from .sizes import CODE_PIXELS, Size, size_text


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
            f"the given height is {height}; the picture of {size_text(image.size)} is {most} high at the canvas's "
            f"width of {width}, in whole rows: expected at most that, or a taller picture"
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
