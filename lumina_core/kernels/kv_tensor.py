"""Keys or values of one layer as a cache stores them: plain, int8 or int4."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

AUTO, INT8, INT4 = "auto", "int8", "int4"
KV_CACHES = (AUTO, INT8, INT4)
TINY = torch.finfo(torch.float32).tiny
MAX_INT8, MAX_INT4 = 127, 15
# Slots of a cache that is attended over in chunks.
CHUNK = 128
# The maximum number of values of a head that share an int4 scale.
INT4_GROUP = 32

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class KVTensor:
    """Keys or values [rows,length,kv_heads,head_dim] of one layer.

    auto: `values` in the dtype of the computation. int8: `values` are codes −127 to 127 with float32 `scales`
    [rows,length,kv_heads,1], and stand for scale · code. int4: `values` are bytes [rows,length,kv_heads,head_dim/2] of
    two codes (see `unpack_halves`) with bfloat16 `scales` and `lows` [rows,length,kv_heads,groups], and stand for
    low + scale · code. What is stored of a token depends on that token alone.
    """

    values: Tensor
    scales: Tensor | None = None
    lows: Tensor | None = None

    @staticmethod
    def empty(
        kind: str, shape: Shape, dtype: torch.dtype, device: torch.device | str, by_head: bool = False
    ) -> KVTensor:
        """Storage of one of KV_CACHES for values that are computed in `dtype`.

        `by_head`, as `chunked_attention` reads it: the slots of a head are neighbours in memory, not the heads of a
        slot, and there are slots for whole chunks.

        Zeros: a slot that was never written is masked, but NaN times zero would still be NaN.
        """
        assert kind in KV_CACHES, kind
        rows, length, heads, head_dim = shape

        def zeros(last: int, dtype: torch.dtype) -> Tensor:
            order = (rows, heads, -(-length // CHUNK) * CHUNK, last) if by_head else (rows, length, heads, last)
            storage = torch.zeros(order, dtype=dtype, device=device)
            return storage.transpose(1, 2) if by_head else storage

        if kind == AUTO:
            return KVTensor(zeros(head_dim, dtype))
        if kind == INT8:
            return KVTensor(zeros(head_dim, torch.int8), zeros(1, torch.float32))
        scales, lows = (zeros(int4_groups(head_dim), torch.bfloat16) for _ in range(2))
        return KVTensor(zeros(head_dim // 2, torch.uint8), scales, lows)

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors that this kind has."""
        return [tensor for tensor in (self.values, self.scales, self.lows) if tensor is not None]

    @property
    def operands(self) -> tuple[Tensor, Tensor, Tensor]:
        """Values, scales and lows as arguments of a Triton kernel; the values stand in for those that do not exist."""
        values, scales, lows = self.values, self.scales, self.lows
        return values, values if scales is None else scales, values if lows is None else lows

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def is_int8(self) -> bool:
        return self.scales is not None and self.lows is None

    @property
    def groups(self) -> int:
        """Groups of a head in int4, else 0."""
        return 0 if self.lows is None else self.lows.shape[-1]

    def read(self, length: int, dtype: torch.dtype, last: int = 0) -> Tensor:
        """The first `length` and the `last` slots of every row, dequantised in `dtype`.

        [rows,length + last,kv_heads,head_dim].
        """
        parts = (tensor[:, :length] for tensor in self.tensors)
        if last:
            parts = (torch.cat((part, tensor[:, -last:]), 1) for part, tensor in zip(parts, self.tensors, strict=True))
        return KVTensor(*parts)._dequantized(dtype)

    def _dequantized(self, dtype: torch.dtype) -> Tensor:
        values, scales, lows = self.values, self.scales, self.lows
        if scales is None:
            return values
        if lows is None:
            return torch.mul(values, scales, out=torch.empty(values.shape, dtype=dtype, device=values.device))
        shape = (*values.shape[:-1], 2 * values.shape[-1])
        return unpack_halves(values, scales, lows, torch.empty(shape, dtype=dtype, device=values.device))

    def move(self, rows: Tensor, source: Tensor, target: Tensor) -> None:
        """Copies slots `source` [R,S] of rows [R,1] to `target` [R,S]; no target is the source of another slot."""
        for tensor in self.tensors:
            tensor[rows, target] = tensor[rows, source]

    def gathered(self, rows: Tensor, slots: Tensor) -> KVTensor:
        """Slots [R,S] of rows [R,1] as rows of their own, as `chunked_attention` reads it."""
        return KVTensor(*(tensor[rows, slots] for tensor in self.tensors))

    def write(self, rows: Tensor, slots: Tensor, new: Tensor) -> None:
        """Stores values [R,S,kv_heads,head_dim] at slots [R,S] of rows [R,1]."""
        for tensor, value in zip(self.tensors, self._quantize(new), strict=True):
            tensor[rows, slots] = value

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` slots of one row to another."""
        for tensor in self.tensors:
            tensor[target, :length] = tensor[source, :length]

    def part(self, first: int, count: int) -> KVTensor:
        """Some rows."""
        return KVTensor(*(tensor[first : first + count] for tensor in self.tensors))

    def chunk(self, index: int, scratch: Tensor) -> Tensor:
        """A chunk's values by heads [rows·kv_heads,CHUNK,head_dim]; of an int8 cache the codes, without their scales.

        In the scratch memory [rows,kv_heads,CHUNK,head_dim], unless they are stored in its dtype.
        """
        slots = slice(index * CHUNK, (index + 1) * CHUNK)
        values = self.values[:, slots].transpose(1, 2)
        if self.scales is None and values.dtype == scratch.dtype:
            return values.flatten(0, 1)
        if self.scales is None or self.lows is None:
            scratch.copy_(values)
        else:
            scales, lows = (part[:, slots].transpose(1, 2) for part in (self.scales, self.lows))
            unpack_halves(values, scales, lows, scratch)
        return scratch.flatten(0, 1)

    def chunk_scales(self, count: int) -> Tensor | None:
        """The scales of the first `count` chunks of an int8 cache [count,rows·kv_heads,1,CHUNK]; None of others."""
        if self.scales is None or self.lows is not None:
            return None
        scales = self.scales[:, : count * CHUNK, :, 0].transpose(1, 2).flatten(0, 1)
        return scales.unflatten(-1, (count, CHUNK)).transpose(0, 1).unsqueeze(2)

    def _quantize(self, new: Tensor) -> tuple[Tensor, ...]:
        if self.scales is None:
            return (new,)
        if self.lows is None:
            scale = (new.abs().amax(-1, keepdim=True).float() / MAX_INT8).clamp_min(TINY)
            return (new / scale).round_().clamp_(-MAX_INT8, MAX_INT8).to(torch.int8), scale
        groups = new.float().unflatten(-1, (self.groups, -1))
        low, high = groups.aminmax(dim=-1, keepdim=True)
        low = low.bfloat16()
        scale = ((high - low) / MAX_INT4).clamp_min(TINY).bfloat16()
        codes = ((groups - low) / scale).round_().clamp_(0, MAX_INT4).to(torch.uint8).flatten(-2)
        first, second = codes.chunk(2, -1)
        return second << 4 | first, scale.squeeze(-1), low.squeeze(-1)


def int4_groups(head_dim: int) -> int:
    """Groups of a head in int4: the fewest of equal size, none of which spans both halves of the head."""
    half = head_dim // 2
    return 2 * next(count for count in range(-(-half // INT4_GROUP), half + 1) if half % count == 0)


def unpack_halves(packed: Tensor, scales: Tensor, lows: Tensor, out: Tensor) -> Tensor:
    """Values of bytes [...,n/2], written to `out` [...,n]: low + scale · code, rounded once.

    The low bits of byte i are code i, the high bits code n/2 + i; each of the scales and lows [...,groups] serves
    n/groups neighbouring codes.
    """
    first, second = out.chunk(2, -1)
    first.copy_(packed & 15)
    second.copy_(packed >> 4)
    grouped = out.unflatten(-1, (scales.shape[-1], -1))
    torch.addcmul(lows.to(out.dtype).unsqueeze(-1), grouped, scales.to(out.dtype).unsqueeze(-1), out=grouped)
    return out
