"""Tensors that a step's results are written to, allocated once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# The normed states of a forward, which the head multiplies.
NORMED = "normed"


class Buffers:
    """Tensors by name, shape and dtype: allocated when first asked for, and the same from then on.

    A step that takes every result from here allocates nothing after its first run, so a CUDA graph of it holds no
    allocation. Two results that are needed at once have different names. Shapes share the memory of their name, so the
    largest comes first: a larger one later takes more, and what graphs hold stays as it is.
    """

    def __init__(self, device: torch.device | str):
        self.device = torch.device(device)
        self._views: dict[tuple[str, tuple[int, ...], torch.dtype], Tensor] = {}
        self._held: dict[tuple[str, torch.dtype], list[Tensor]] = {}

    def empty(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The tensor of this name; what it holds is left from its last use."""
        key = name, shape, dtype
        if (view := self._views.get(key)) is None:
            count, held = math.prod(shape), self._held.setdefault((name, dtype), [])
            if not held or held[-1].numel() < count:
                held.append(torch.empty(count, dtype=dtype, device=self.device))
            view = self._views[key] = held[-1][:count].view(shape)
        return view

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for held in self._held.values() for part in held)


def empty(
    buffers: Buffers | None, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """A tensor for a result: from the buffers, or a new one without them."""
    if buffers is None:
        return torch.empty(shape, dtype=dtype, device=device)
    return buffers.empty(name, shape, dtype)
