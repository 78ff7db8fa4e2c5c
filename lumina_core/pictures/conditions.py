"""What Python callers give as condition: pictures, their paths, or several of either."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from ..errors import InputError
from .images import load_picture

Picture = Image.Image | str | Path


def condition_pictures(condition: Picture | Sequence[Picture] | Iterator[Picture]) -> list[Image.Image]:
    """The pictures of a condition, those of paths as `load_picture`. Raises InputError for anything else."""
    if isinstance(condition, Sequence | Iterator) and not isinstance(condition, str | bytes):
        return [_picture(one) for one in condition]
    return [_picture(condition)]


def _picture(one: object) -> Image.Image:
    if isinstance(one, str | Path):
        return load_picture(one)
    if not isinstance(one, Image.Image):
        raise InputError(
            f"the condition is {type(one).__name__}; expected a Pillow picture, a path, or several of them"
        )
    return one
