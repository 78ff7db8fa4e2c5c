"""Tensors that a step's results are written to, allocated once."""

from __future__ import annotations

import torch
from torch import Tensor


class Buffers:
    """Tensors by name, shape and dtype: allocated when first asked for, and the same from then on.

    A step that takes every result from here allocates nothing after its first run, so a CUDA graph of it holds no
    allocation. Two results that are needed at once have different names.
    """

    def __init__(self, device: torch.device | str):
        self.device = torch.device(device)
        self._held: dict[tuple[str, tuple[int, ...], torch.dtype], Tensor] = {}

    def empty(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The tensor of this name; what it holds is left from its last use."""
        key = name, tuple(shape), dtype
        if (held := self._held.get(key)) is None:
            held = self._held[key] = torch.empty(shape, dtype=dtype, device=self.device)
        return held

    @property
    def nbytes(self) -> int:
        return sum(held.nbytes for held in self._held.values())


def empty(
    buffers: Buffers | None, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """A tensor for a result: from the buffers, or a new one without them."""
    if buffers is None:
        return torch.empty(shape, dtype=dtype, device=device)
    return buffers.empty(name, shape, dtype)
