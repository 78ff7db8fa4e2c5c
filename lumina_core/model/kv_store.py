"""How keys, or values, are stored [layers,rows,length,kv_heads,head_dim]: as they are, or in 8 or 4 bits."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..kernels import Stored, unpack_halves

AUTO, INT8, INT4 = "auto", "int8", "int4"
KV_CACHES = (AUTO, INT8, INT4)
SCALE_BYTES = 4
# Of the numbers of a head that share a scale in 4 bits, at most; a scale and a lowest number take bfloat16 each.
INT4_GROUP, INT4_GROUP_BYTES = 32, 4

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


@dataclass(frozen=True)
class Int4Store:
    """Codes 0 to 15, and for each group of neighbouring numbers of a head a scale and the lowest number in bfloat16.

    number = lowest + scale · code; a byte holds a code of the head's first half (low bits) and one of its second.
    Given back in `dtype`. A token's numbers depend on nothing but that token, as in `Int8Store`.
    """

    codes: PlainStore
    scales: PlainStore
    lowest: PlainStore
    dtype: torch.dtype

    def write(self, layer: int, slots: Tensor, new: Tensor) -> None:
        groups = new.float().unflatten(-1, (self.scales.numbers.shape[-1], -1))
        low, high = groups.aminmax(dim=-1, keepdim=True)
        low = low.bfloat16()
        scale = ((high - low) / 15).clamp_min(torch.finfo(torch.float32).tiny).bfloat16()
        codes = ((groups - low) / scale).round_().clamp_(0, 15).to(torch.uint8).flatten(-2)
        first, second = codes.chunk(2, -1)
        self.codes.write(layer, slots, second << 4 | first)
        self.scales.write(layer, slots, scale.squeeze(-1))
        self.lowest.write(layer, slots, low.squeeze(-1))

    def read(self, layer: int, length: int) -> Tensor:
        codes, scales, lowest = (store.read(layer, length) for store in (self.codes, self.scales, self.lowest))
        return unpack_halves(codes, scales, lowest, self.dtype)

    def stored(self, layer: int) -> Stored:
        return Stored(*(store.numbers[layer] for store in (self.codes, self.scales, self.lowest)))

    def copy_row(self, source: int, target: int, length: int) -> None:
        for store in (self.codes, self.scales, self.lowest):
            store.copy_row(source, target, length)

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes + self.lowest.nbytes


def make_store(kv_cache: str, shape: Shape, dtype: torch.dtype, device: torch.device | str) -> Store:
    """An empty store of numbers that are computed in `dtype`."""
    assert kv_cache in KV_CACHES, kv_cache
    if kv_cache == AUTO:
        return PlainStore(torch.zeros(shape, dtype=dtype, device=device))

    def zeros(last: int, dtype: torch.dtype) -> PlainStore:
        return PlainStore(torch.zeros(*shape[:-1], last, dtype=dtype, device=device))

    if kv_cache == INT8:
        return Int8Store(zeros(shape[-1], torch.int8), zeros(1, torch.float32), dtype)
    groups = int4_groups(shape[-1])
    scales, lowest = zeros(groups, torch.bfloat16), zeros(groups, torch.bfloat16)
    return Int4Store(zeros(shape[-1] // 2, torch.uint8), scales, lowest, dtype)


def int4_groups(head_dim: int) -> int:
    """Groups of a head in 4 bits: the fewest of equal size, none of them in both halves of the head."""
    half = head_dim // 2
    return 2 * next(count for count in range(-(-half // INT4_GROUP), half + 1) if half % count == 0)


def bytes_per_head(kv_cache: str, head_dim: int, dtype: torch.dtype) -> int:
    """Bytes that the keys, or the values, of one head of one token take."""
    if kv_cache == AUTO:
        return head_dim * dtype.itemsize
    return head_dim + SCALE_BYTES if kv_cache == INT8 else head_dim // 2 + int4_groups(head_dim) * INT4_GROUP_BYTES
