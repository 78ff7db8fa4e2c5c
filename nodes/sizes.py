"""Width and height of a canvas, as widgets."""

from __future__ import annotations

from comfy_api.latest import io

from ..lumina_core.pictures.panels import UNIT_PIXELS

LONGEST_SIDE = 4096


def size_problem(**sides: int | None) -> str | None:
    """What is wrong with the sides that are known, or None."""
    for name, side in sides.items():
        if side is None:
            continue
        if side % UNIT_PIXELS or not UNIT_PIXELS <= side <= LONGEST_SIDE:
            nearest = min(max(UNIT_PIXELS, round(side / UNIT_PIXELS) * UNIT_PIXELS), LONGEST_SIDE)
            return (
                f"{name} is {side}; expected a multiple of {UNIT_PIXELS} up to {LONGEST_SIDE}, the nearest is {nearest}"
            )
    return None


def side_input(name: str, default: int, tooltip: str, extra_dict: dict | None = None) -> io.Int.Input:
    """A widget for a side in pixels."""
    return io.Int.Input(
        name,
        default=default,
        min=UNIT_PIXELS,
        max=LONGEST_SIDE,
        step=UNIT_PIXELS,
        tooltip=f"{name.capitalize()} in pixels, a multiple of {UNIT_PIXELS}. {tooltip}",
        extra_dict=extra_dict,
    )
