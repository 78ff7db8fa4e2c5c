"""Which inputs a task takes."""

from __future__ import annotations

import logging

from ..errors import InputError
from .prompts import find_template

logger = logging.getLogger(__name__)


def check_condition(task: str, is_given: bool, is_continued: bool) -> None:
    """Raises InputError unless a condition is given exactly where the task, or continuing a picture, needs one."""
    needed = find_template(task).needs_condition or is_continued
    if is_continued and not is_given:
        raise InputError("the given height came without a picture; name the one to continue with --condition")
    if needed and not is_given:
        raise InputError(f"the task {task} needs a picture for the upper panel; name one with --condition")
    if is_given and not needed:
        raise InputError(
            f"the task {task} takes no picture for the upper panel; leave --condition out, choose another task, or "
            "continue the picture with --given-height"
        )


def warn_of_ignored(task: str, map: object, object: object) -> None:
    """Logs a warning for a map and for an object that the task does not use."""
    for name, value in (("map", map), ("object", object)):
        if value is not None and name not in find_template(task).requires:
            logger.warning("The task %s takes no %s: %.100r is ignored.", task, name, value)
