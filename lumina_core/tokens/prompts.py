"""Prompt templates of the tasks, as data that a user can read and replace."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from types import MappingProxyType

from ..errors import InputError
from .prompt_text import PromptText, check_text

logger = logging.getLogger(__name__)

MAPS = MappingProxyType(
    {"depth": "depth map", "canny": "canny edge map", "hed": "hed edge map", "pose": "pose estimation map"}
)
PLACEHOLDERS = ("width", "height", "prompt", "map", "object")
_SIZE, _TYPED = ("width", "height"), ("prompt", "object")
_EXPECTED = MappingProxyType(
    {
        "prompt": "what to draw, or what to change, in words",
        "object": "what the given picture shows, such as: a red mug",
    }
)


@dataclass(frozen=True)
class PromptTemplate:
    """The prompt of a task, with placeholders {width}, {height} (of the whole canvas), {prompt}, {map}, {object}.

    `requires` lists the inputs that must not be empty. `needs_condition` says whether the task needs a picture for the
    upper panel. `published` is False for a wording that is ours, not in the released code. `panels` is the number of
    pictures above each other on the canvas.
    """

    task: str
    text: str
    published: bool
    requires: tuple[str, ...] = ()
    needs_condition: bool = False
    panels: int = 2


_PAIR = (
    "Generate a dual-panel image of {width}x{height} where the <lower half> displays a <{map}>, "
    "while the <upper half> retains the original image for direct visual comparison:\n{prompt}"
)
_CONTROL = (
    "Generate a dual-panel image of {width}x{height} where the <upper half> displays a <{map}>, "
    "while the <lower half> retains the original image for direct visual comparison:\n{prompt}"
)

TEMPLATES = MappingProxyType(
    {
        template.task: template
        for template in (
            PromptTemplate(
                "t2i",
                "Generate an image of {width}x{height} according to the following prompt:\n{prompt}",
                published=True,
                panels=1,
            ),
            PromptTemplate("pair", _PAIR, published=True, requires=("map",)),
            PromptTemplate("control", _CONTROL, published=True, requires=("map",), needs_condition=True),
            PromptTemplate(
                "subject",
                "Generate a dual-panel image of {width}x{height} where the <upper half> displays: {object}, "
                "while the <lower half> shows the image according to the object and following prompt: {prompt}.",
                published=True,
                requires=("object", "prompt"),
                needs_condition=True,
            ),
            # Ours, not in the released code.
            PromptTemplate(
                "edit",
                "Generate a dual-panel image of {width}x{height} where the <upper half> displays the original image, "
                "while the <lower half> shows the image after the following edit:\n{prompt}",
                published=False,
                requires=("prompt",),
                needs_condition=True,
            ),
            # Ours, not in the released code. Prediction draws the lower half of a pair whose upper half is given.
            PromptTemplate("predict", _PAIR, published=False, requires=("map",), needs_condition=True),
            # `subject` has the paper's wording; the released program describes the subject in the place of the map.
            PromptTemplate(
                "subject-released",
                _CONTROL.replace("{map}", "{object}"),
                published=True,
                requires=("object", "prompt"),
                needs_condition=True,
            ),
        )
    }
)
TASKS = tuple(TEMPLATES)


def build_prompt(
    task: str,
    width: int | None,
    height: int | None,
    prompt: str,
    map: str | None = None,
    object: str | None = None,
    template: str | None = None,
) -> PromptText:
    """The full prompt of a task for a canvas of `width` by `height` pixels (both panels together).

    A side that is None, not known yet, leaves its placeholder in the text.
    `map` is one of MAPS, `object` the description of the subject; tasks that do not use them ignore them. Each turn of
    multi-turn editing is the task "edit". `prompt` is inserted unchanged, and may be empty where the published program
    allows it. `template` replaces the text of the task's template. The result says which stretches are typed: `prompt`
    and `object`. Raises InputError for unknown or missing inputs and for invalid Unicode.
    """
    own = find_template(task)
    text = own.text if template is None else check_text("template", template)
    sides = {"width": width, "height": height}
    values = {name: f"{{{name}}}" if side is None else str(side) for name, side in sides.items()} | {"map": ""}
    values |= {"prompt": check_text("prompt", prompt), "object": check_text("object", "" if object is None else object)}
    if "map" in own.requires:
        values["map"] = _map_name(map)
    for name in own.requires:
        if not values[name].strip():
            raise InputError(f"{name} is empty, which this task needs; expected {_EXPECTED[name]}")
    _check_placeholders(text, [*_SIZE, *own.requires, *(["prompt"] if prompt.strip() else [])])
    if not prompt.strip() and not own.needs_condition:
        logger.warning("The prompt is empty: the model gets the size only.")
    pieces = re.split(r"\{(\w+)\}", text)  # template text and names of placeholders in turn
    return PromptText.of(
        (values[piece], piece in _TYPED) if index % 2 else (piece, False) for index, piece in enumerate(pieces)
    )


def build_negative(
    task: str,
    width: int | None,
    height: int | None,
    negative: str | None,
    map: str | None = None,
    object: str | None = None,
    template: str | None = None,
) -> PromptText | None:
    """What the unconditional branch reads: `negative` in the same wording as the prompt; None where it is blank."""
    if negative is None or not check_text("negative prompt", negative).strip():
        return None
    return build_prompt(task, width, height, negative, map, object, template)


def find_template(task: str) -> PromptTemplate:
    """The template of a task. Raises InputError with the list of tasks for an unknown task."""
    if not isinstance(task, str) or task not in TEMPLATES:
        raise InputError(f"the task is {task!r}; expected one of {', '.join(TASKS)}")
    return TEMPLATES[task]


def _map_name(map: str | None) -> str:
    if map is None:
        raise InputError(f"map is missing, which this task needs; expected one of {', '.join(MAPS)}")
    if not isinstance(map, str) or map not in MAPS:
        raise InputError(f"map is {map!r}; expected one of {', '.join(MAPS)}")
    return MAPS[map]


def _check_placeholders(text: str, needed: list[str]) -> None:
    used = re.findall(r"\{([^{}]*)\}", text)
    unknown = [name for name in used if name not in PLACEHOLDERS]
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise InputError(f"the template has the placeholder {{{unknown[0]:.80}}}; expected only {known}")
    missing = [f"{{{name}}}" for name in needed if name not in used]
    if missing:
        raise InputError(
            f"the template {text!r:.200} lacks {', '.join(missing)}; add the placeholder where its text goes"
        )
