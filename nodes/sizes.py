"""Widgets for width and height, and their check."""

from __future__ import annotations

from comfy_api.latest import io

from ..lumina_core.errors import InputError
from ..lumina_core.pictures.sizes import MAX_SIDE, UNIT_PIXELS

# The value of a side that the model's own sizes fill in.
FROM_MODEL = 0


def check_sides(width: int, height: int) -> None:
    """Raises InputError for a side that no model can draw."""
    for name, side in (("width", width), ("height", height)):
        if side % UNIT_PIXELS or not FROM_MODEL <= side <= MAX_SIDE:
            nearest = min(max(1, round(side / UNIT_PIXELS)) * UNIT_PIXELS, MAX_SIDE)
            raise InputError(
                f"{name} is {side}; expected a multiple of {UNIT_PIXELS} up to {MAX_SIDE}, or {FROM_MODEL} for the "
                f"model's own size; the nearest is {nearest}"
            )


def side_input(name: str, tooltip: str, extra_dict: dict | None = None) -> io.Int.Input:
    """A widget for a side in pixels, by default that of the model."""
    return io.Int.Input(
        name,
        default=FROM_MODEL,
        min=FROM_MODEL,
        max=MAX_SIDE,
        step=UNIT_PIXELS,
        tooltip=f"{name.capitalize()} of the whole canvas in pixels, a multiple of {UNIT_PIXELS}. 0: the size that the "
        f"model was trained on. {tooltip}".rstrip(),
        extra_dict=extra_dict,
    )
