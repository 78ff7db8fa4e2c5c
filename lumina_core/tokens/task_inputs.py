"""Which inputs a task takes."""

from __future__ import annotations

import logging

from ..errors import InputError
from .prompts import find_template

logger = logging.getLogger(__name__)


# Tasks whose lower panel begins as the condition, so that a mask can say what of it is drawn.
MASKED_PANEL = ("edit",)


def check_condition(task: str, is_given: bool, is_continued: bool, is_masked: bool = False) -> None:
    """Raises InputError unless a condition is given exactly where the task, a continued picture or a mask needs one."""
    if is_masked:
        _check_mask(task, is_given, is_continued)
    needed = find_template(task).needs_condition or is_continued or is_masked
    if is_continued and not is_given:
        raise InputError("the given height came without a picture; name the one to continue with --condition")
    if needed and not is_given:
        raise InputError(f"the task {task} needs a picture for the upper panel; name one with --condition")
    if is_given and not needed:
        raise InputError(
            f"the task {task} takes no picture for the upper panel; leave --condition out, choose another task, "
            "continue the picture with --given-height, or draw a part of it anew with --mask"
        )


def _check_mask(task: str, is_given: bool, is_continued: bool) -> None:
    if not is_given:
        raise InputError("a mask came without a picture; name the picture with --condition")
    if is_continued:
        raise InputError("a mask came with a given height, or with tokens of a begun picture; expected one of them")
    if find_template(task).needs_condition and task not in MASKED_PANEL:
        raise InputError(
            f"the task {task} takes no mask: its lower panel is another picture than the upper one; expected the task "
            f"{', '.join(MASKED_PANEL)}, or one without a picture for the upper panel"
        )


def is_whole(task: str, is_masked: bool) -> bool:
    """Whether a condition is the whole canvas, rather than its upper panel or its top."""
    return is_masked and not find_template(task).needs_condition


def warn_of_ignored(task: str, map: object, object: object) -> None:
    """Logs a warning for a map and for an object that the task does not use."""
    for name, value in (("map", map), ("object", object)):
        if value is not None and name not in find_template(task).requires:
            logger.warning("The task %s takes no %s: %.100r is ignored.", task, name, value)
