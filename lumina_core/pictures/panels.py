"""What a picture gives of a canvas: its upper panel, the first rows of one to continue, or all of one with a mask."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from ..errors import InputError
from .images import center_crop, to_pixels, to_rgb
from .levels import warn_if_flat
from .sizes import CODE_PIXELS, Size, check_size, size_text


def given_size(width: int, height: int, given_height: int | None = None, whole: bool = False) -> Size:
    """Size of what is given of a canvas: its upper panel, `given_height` pixels of its top, or the `whole`.

    Raises InputError as `check_size`, and when that is not whole rows of codes or leaves nothing to draw.
    """
    check_size(width, height)
    if whole:
        return width, height
    if given_height is None:
        return width, height // 2
    if not 0 < given_height < height or given_height % CODE_PIXELS:
        raise InputError(
            f"the given height is {given_height}; expected a multiple of {CODE_PIXELS} from {CODE_PIXELS} to "
            f"{height - CODE_PIXELS}, below the canvas's height of {height}"
        )
    return width, given_height


def first_rows(image: Image.Image, size: Size) -> Image.Image:
    """The top of a picture at exactly `size` (width, height), scaled to that width.

    A picture of that width keeps its pixels. Raises InputError when the scaled picture is not tall enough.
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


def condition_panel(
    image: Image.Image, width: int, height: int, given_height: int | None = None, whole: bool = False
) -> Image.Image:
    """The picture as what is given of a canvas, its alpha blended on white.

    It is scaled and cropped to the upper panel, or to the `whole` canvas; with `given_height`, only its first rows are
    kept. Grey of more than 8 bits is scaled as `to_rgb`. What is all black, all white or one colour is logged.
    """
    size = given_size(width, height, given_height, whole)
    if not isinstance(image, Image.Image):
        raise InputError(f"the condition is {type(image).__name__}; expected a Pillow picture, as of load_picture")
    picture = to_rgb(image, "the condition")
    panel = center_crop(picture, size) if given_height is None else first_rows(picture, size)
    warn_if_flat(panel, "the condition")
    return panel


def condition_pixels(
    images: Image.Image | Sequence[Image.Image],
    width: int,
    height: int,
    given_height: int | None = None,
    whole: bool = False,
) -> torch.Tensor:
    """Pixels [B,3,h,width] in [-1,1] of one or several pictures of any sizes, each as `condition_panel`."""
    pictures = [images] if isinstance(images, Image.Image) else list(images)
    if not pictures:
        raise InputError("no condition picture came; expected at least one")
    panels = (condition_panel(picture, width, height, given_height, whole) for picture in pictures)
    return torch.cat([to_pixels(panel) for panel in panels])
