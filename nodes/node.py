"""The base class of the nodes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from ..lumina_core.errors import LuminaError, OutOfMemory

# What ComfyUI calls before and while a workflow runs.
CALLED = ("validate_inputs", "execute")


class LuminaNode(io.ComfyNode):
    """A node of this pack.

    Its errors reach ComfyUI as built-in exceptions: of any other, panel and log show the path of its module.
    A `validate_inputs` of several arguments raises them, since ComfyUI reports what it returns once for each argument.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in CALLED:
            function = getattr(vars(cls).get(name), "__func__", None)
            if function is not None and not hasattr(function, "__wrapped__"):  # ComfyUI makes copies of the class
                setattr(cls, name, classmethod(with_builtin_errors(function)))


def with_builtin_errors(function: Callable) -> Callable:
    """The function with its LuminaErrors raised as ValueError and MemoryError, for callers in ComfyUI."""

    @functools.wraps(function)
    def call(*values: Any, **named: Any) -> Any:
        try:
            return function(*values, **named)
        except OutOfMemory as error:
            raise MemoryError(str(error)) from error
        except LuminaError as error:
            raise ValueError(str(error)) from error

    call.__signature__ = inspect.signature(function)  # ComfyUI reads which inputs `validate_inputs` takes
    return call
