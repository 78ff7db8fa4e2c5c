"""Names and values of the demo world: things, shapes, colours, sizes, backgrounds."""

from __future__ import annotations

from types import MappingProxyType

CANVAS = 96
GRID = 8
CELLS = CANVAS // GRID

# Emoji of Noto Color Emoji by name; `things.png` holds their pictures in this order.
THINGS = MappingProxyType(
    {
        "cat": "🐱",
        "dog": "🐶",
        "rabbit": "🐰",
        "panda": "🐼",
        "fox": "🦊",
        "frog": "🐸",
        "pig": "🐷",
        "lion": "🦁",
        "owl": "🦉",
        "penguin": "🐧",
        "turtle": "🐢",
        "octopus": "🐙",
        "butterfly": "🦋",
        "apple": "🍎",
        "strawberry": "🍓",
        "lemon": "🍋",
        "watermelon": "🍉",
        "burger": "🍔",
        "donut": "🍩",
        "cupcake": "🧁",
        "car": "🚗",
        "bus": "🚌",
        "train": "🚂",
        "rocket": "🚀",
        "sailboat": "⛵",
        "airplane": "✈",
        "tree": "🌳",
        "cactus": "🌵",
        "sunflower": "🌻",
        "tulip": "🌷",
        "mushroom": "🍄",
        "sun": "🌞",
        "moon": "🌙",
        "cloud": "☁",
        "rainbow": "🌈",
        "snowman": "⛄",
    }
)
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "star")
PEOPLE = ("person with arms up", "person with arms out", "person with arms down", "person with legs apart")
KINDS = (*THINGS, *SHAPES, *PEOPLE)
SIZES = MappingProxyType({"small": 24, "medium": 32, "large": 40})
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
PERSON_COLOUR = (235, 95, 60)
# Not in the pictures that the demo was trained on: what a LoRA can teach it.
MORE_COLOURS = MappingProxyType({"silver": (230, 230, 230)})
PLAIN = MappingProxyType({"white": (255, 255, 255), "black": (0, 0, 0), "gray": (128, 128, 128), "brown": (95, 60, 30)})
PLACES = MappingProxyType(
    {
        "sky": (135, 200, 250),
        "grass": (120, 195, 85),
        "sand": (240, 215, 150),
        "night": (28, 32, 78),
        "snow": (226, 238, 250),
    }
)
BACKGROUNDS = MappingProxyType({**PLAIN, **PLACES})
# Looks of a cell of a place: bare, or with one of these details.
DETAILS = 6
BARE_SHARE = 0.72
DEPTH_GREYS = MappingProxyType({"small": 100, "medium": 165, "large": 230})  # The larger is the nearer.
INKS = MappingProxyType({"canny": (255, 255, 255), "hed": (255, 255, 255), "pose": (80, 255, 120)})
MAPS = ("depth", *INKS)
RELATIONS = ("left of", "right of", "above", "below")
# Where the centre of an object is, by thirds of the canvas: column and row.
COLUMNS, ROWS = ("left", "middle", "right"), ("top", "middle", "bottom")
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
        "single_object": 0.08,
        "colours": 0.05,
        "two_objects": 0.15,
        "counting": 0.20,
        "position": 0.27,
        "colour_attribution": 0.17,
        "mixed": 0.08,
    }
)


def is_coloured(kind: str) -> bool:
    """Whether objects of a kind come in any of COLOURS; the others have their own."""
    return kind in SHAPES


def sizes_of(kind: str) -> tuple[str, ...]:
    """The sizes in which a kind is drawn."""
    if kind in SHAPES:
        return "small", "large"
    return ("large",) if kind in PEOPLE else tuple(SIZES)
