"""How keys, or values, are stored [layers,rows,length,kv_heads,head_dim]: as they are, or in 8 bits."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..kernels import Stored

AUTO, INT8 = "auto", "int8"
KV_CACHES = (AUTO, INT8)
SCALE_BYTES = 4

Shape = tuple[int, ...]


class Store(Protocol):
    """The keys, or the values, of all layers; zero where nothing was written."""

    def write(self, layer: int, slots: Tensor, new: Tensor) -> None:
        """Puts new ones [n,kv_heads,head_dim] at the slots [n] of all rows in turn."""

    def read(self, layer: int, length: int) -> Tensor:
        """The first `length` slots of every row [rows,length,kv_heads,head_dim]."""

    def stored(self, layer: int) -> Stored:
        """All of a layer, as it is stored."""

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` slots of one row to another."""

    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True)
class PlainStore:
    """All numbers as they are."""

    numbers: Tensor

    def write(self, layer: int, slots: Tensor, new: Tensor) -> None:
        self.numbers[layer].flatten(0, 1).index_copy_(0, slots, new)

    def read(self, layer: int, length: int) -> Tensor:
        return self.numbers[layer, :, :length]

    def stored(self, layer: int) -> Stored:
        return Stored(self.numbers[layer])

    def copy_row(self, source: int, target: int, length: int) -> None:
        self.numbers[:, target, :length] = self.numbers[:, source, :length]

    @property
    def nbytes(self) -> int:
        return self.numbers.nbytes


@dataclass(frozen=True)
class Int8Store:
    """One code −127 to 127 a number and one float32 scale for each head of a token: number = scale · code.

    Given back in `dtype`. A token's numbers depend on nothing but that token, so they are the same whatever is written
    beside it.
    """

    codes: PlainStore
    scales: PlainStore
    dtype: torch.dtype

    def write(self, layer: int, slots: Tensor, new: Tensor) -> None:
        scale = (new.abs().amax(-1, keepdim=True).float() / 127).clamp_min(torch.finfo(torch.float32).tiny)
        self.codes.write(layer, slots, (new / scale).round_().clamp_(-127, 127).to(torch.int8))
        self.scales.write(layer, slots, scale)

    def read(self, layer: int, length: int) -> Tensor:
        codes, scales = self.codes.read(layer, length), self.scales.read(layer, length)
        return torch.mul(codes, scales, out=torch.empty(codes.shape, dtype=self.dtype, device=codes.device))

    def stored(self, layer: int) -> Stored:
        return Stored(self.codes.numbers[layer], self.scales.numbers[layer])

    def copy_row(self, source: int, target: int, length: int) -> None:
        self.codes.copy_row(source, target, length)
        self.scales.copy_row(source, target, length)

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes


def make_store(kv_cache: str, shape: Shape, dtype: torch.dtype, device: torch.device | str) -> Store:
    """An empty store of numbers that are computed in `dtype`."""
    assert kv_cache in KV_CACHES, kv_cache
    if kv_cache == AUTO:
        return PlainStore(torch.zeros(shape, dtype=dtype, device=device))
    codes = torch.zeros(shape, dtype=torch.int8, device=device)
    scales = torch.zeros(*shape[:-1], 1, dtype=torch.float32, device=device)
    return Int8Store(PlainStore(codes), PlainStore(scales), dtype)


def bytes_per_head(kv_cache: str, head_dim: int, dtype: torch.dtype) -> int:
    """Bytes that the keys, or the values, of one head of one token take."""
    return head_dim * dtype.itemsize if kv_cache == AUTO else head_dim + SCALE_BYTES
