"""Widgets for width and height, and their validation."""

from __future__ import annotations

from comfy_api.latest import io

from ..lumina_core.errors import InputError
from ..lumina_core.pictures.sizes import MAX_SIDE, UNIT_PIXELS, check_size


def validate_size(width: int | None, height: int | None) -> bool | str:
    """The result of a node's `validate_inputs`. A side that arrives over a link is None and counts as legal."""
    try:
        check_size(UNIT_PIXELS if width is None else width, UNIT_PIXELS if height is None else height)
    except InputError as error:
        return str(error)
    return True


def side_input(name: str, default: int, tooltip: str, extra_dict: dict | None = None) -> io.Int.Input:
    """A widget for a side in pixels."""
    return io.Int.Input(
        name,
        default=default,
        min=UNIT_PIXELS,
        max=MAX_SIDE,
        step=UNIT_PIXELS,
        tooltip=f"{name.capitalize()} in pixels, a multiple of {UNIT_PIXELS}. {tooltip}",
        extra_dict=extra_dict,
    )
