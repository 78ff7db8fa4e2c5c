"""Names and values of the demo world: shapes, colours, sizes, backgrounds."""

from __future__ import annotations

from types import MappingProxyType

CANVAS = 64
GRID = 8

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "star")
PEOPLE = ("person with arms up", "person with arms out", "person with arms down", "person with legs apart")
SIZES = MappingProxyType({"small": 16, "large": 24})
COLOURS = MappingProxyType(
    {
        "red": (220, 30, 35),
        "green": (30, 150, 50),
        "blue": (35, 60, 220),
        "yellow": (250, 225, 40),
        "orange": (255, 140, 10),
        "purple": (130, 30, 160),
        "cyan": (50, 215, 230),
        "pink": (255, 130, 200),
    }
)
# Not in the pictures that the demo was trained on: what a LoRA can teach it.
MORE_COLOURS = MappingProxyType({"silver": (230, 230, 230)})
BACKGROUNDS = MappingProxyType(
    {"white": (255, 255, 255), "black": (0, 0, 0), "gray": (128, 128, 128), "brown": (95, 60, 30)}
)
DEPTH_GREYS = MappingProxyType({"small": 120, "large": 230})  # The larger is the nearer.
INKS = MappingProxyType({"canny": (255, 255, 255), "hed": (255, 255, 255), "pose": (80, 255, 120)})
MAPS = ("depth", *INKS)
RELATIONS = ("left of", "right of", "above", "below")
CATEGORIES = (
    "single_object",
    "colours",
    "two_objects",
    "counting",
    "position",
    "colour_attribution",
)
TRAINING_WEIGHTS = MappingProxyType(
    {
        "single_object": 0.10,
        "colours": 0.10,
        "two_objects": 0.15,
        "counting": 0.20,
        "position": 0.20,
        "colour_attribution": 0.15,
        "mixed": 0.10,
    }
)
