"""How keys, or values, are stored [layers,rows,length,kv_heads,head_dim]: as they are, or in 8 or 4 bits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels.kv_tensor import Stored

AUTO, INT8, INT4 = "auto", "int8", "int4"
KV_CACHES = (AUTO, INT8, INT4)
SCALE_BYTES = 4
# Of the numbers of a head that share a scale in 4 bits, at most; a scale and a lowest number take bfloat16 each.
INT4_GROUP, INT4_GROUP_BYTES = 32, 4

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Store:
    """The keys, or the values, of all layers; zero where nothing was written. Given back in `dtype`."""

    every: Stored
    dtype: torch.dtype

    def stored(self, layer: int) -> Stored:
        """All of a layer, as it is stored."""
        return Stored(*(part[layer] for part in self.every.parts))

    def read(self, layer: int, length: int) -> Tensor:
        """The first `length` slots of every row [rows,length,kv_heads,head_dim]."""
        return self.stored(layer).read(length, self.dtype)

    def write(self, layer: int, slots: Tensor, new: Tensor) -> None:
        """Puts new ones [n,kv_heads,head_dim] at the slots [n] of all rows in turn."""
        self.stored(layer).write(slots, new)

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` slots of one row to another."""
        for part in self.every.parts:
            part[:, target, :length] = part[:, source, :length]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.every.parts)


def make_store(kv_cache: str, shape: Shape, dtype: torch.dtype, device: torch.device | str) -> Store:
    """An empty store of numbers that are computed in `dtype`."""
    assert kv_cache in KV_CACHES, kv_cache

    def zeros(last: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(*shape[:-1], last, dtype=dtype, device=device)

    head_dim = shape[-1]
    if kv_cache == AUTO:
        return Store(Stored(zeros(head_dim, dtype)), dtype)
    if kv_cache == INT8:
        return Store(Stored(zeros(head_dim, torch.int8), zeros(1, torch.float32)), dtype)
    scales, lowest = (zeros(int4_groups(head_dim), torch.bfloat16) for _ in range(2))
    return Store(Stored(zeros(head_dim // 2, torch.uint8), scales, lowest), dtype)


def int4_groups(head_dim: int) -> int:
    """Groups of a head in 4 bits: the fewest of equal size, none of them in both halves of the head."""
    half = head_dim // 2
    return 2 * next(count for count in range(-(-half // INT4_GROUP), half + 1) if half % count == 0)


def bytes_per_head(kv_cache: str, head_dim: int, dtype: torch.dtype) -> int:
    """Bytes that the keys, or the values, of one head of one token take."""
    if kv_cache == AUTO:
        return head_dim * dtype.itemsize
    return head_dim + SCALE_BYTES if kv_cache == INT8 else head_dim // 2 + int4_groups(head_dim) * INT4_GROUP_BYTES
