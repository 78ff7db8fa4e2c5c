"""Corrections to Triton's interpreter, which runs kernels on a CPU."""

from __future__ import annotations

from typing import Any

import torch


def prepare_interpreter() -> None:
    """Patches the interpreter: float32 is rounded to bfloat16, not truncated, and loop bounds work with a new NumPy."""
    from triton import language
    from triton.runtime import interpreter

    convert, patch_tensor = interpreter._convert_float, interpreter._patch_lang_tensor

    def round_to_nearest(values: Any, source: Any, target: Any, mode: Any) -> Any:
        if (source, target) != (language.float32, language.bfloat16):
            return convert(values, source, target, mode)
        return torch.from_numpy(values.copy()).bfloat16().view(torch.int16).numpy().view("uint16")

    def patch_with_index(tensor: Any, *rest: Any) -> None:
        """Triton before 3.9 converts an array of one value to an int, which NumPy from 2.4 on refuses."""
        patch_tensor(tensor, *rest)
        tensor.__index__ = lambda self: int(self.handle.data.item())

    interpreter._convert_float, interpreter._patch_lang_tensor = round_to_nearest, patch_with_index
