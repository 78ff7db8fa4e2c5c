"""Keys or values of one layer as a cache stores them: plain, int8 or int4."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

AUTO, INT8, INT4 = "auto", "int8", "int4"
KV_CACHES = (AUTO, INT8, INT4)
TINY = torch.finfo(torch.float32).tiny
MAX_INT8, MAX_INT4 = 127, 15
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
    def empty(kind: str, shape: Shape, dtype: torch.dtype, device: torch.device | str) -> KVTensor:
        """Storage of one of KV_CACHES for values that are computed in `dtype`.

        Zeros: a slot that was never written is masked, but NaN times zero would still be NaN.
        """
        assert kind in KV_CACHES, kind
        *rows, head_dim = shape

        def zeros(last: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(*rows, last, dtype=dtype, device=device)

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

    def read(self, length: int, dtype: torch.dtype) -> Tensor:
        """The first `length` slots of every row [rows,length,kv_heads,head_dim], dequantised in `dtype`."""
        values = self.values[:, :length]
        if self.scales is None:
            return values
        scales = self.scales[:, :length]
        if self.lows is None:
            return torch.mul(values, scales, out=torch.empty(values.shape, dtype=dtype, device=values.device))
        return unpack_halves(values, scales, self.lows[:, :length], dtype)

    def write(self, slots: Tensor, new: Tensor) -> None:
        """Stores values [n,kv_heads,head_dim] at slots [n], which count through all rows."""
        for tensor, value in zip(self.tensors, self._quantize(new), strict=True):
            tensor.flatten(0, 1).index_copy_(0, slots, value)

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` slots of one row to another."""
        for tensor in self.tensors:
            tensor[target, :length] = tensor[source, :length]

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


def unpack_halves(packed: Tensor, scales: Tensor, lows: Tensor, dtype: torch.dtype) -> Tensor:
    """Values [...,n] in `dtype` of bytes [...,n/2]: low + scale · code, rounded once.

    The low bits of byte i are code i, the high bits code n/2 + i; each of the scales and lows [...,groups] serves
    n/groups neighbouring codes.
    """
    codes = torch.empty(*packed.shape[:-1], 2 * packed.shape[-1], dtype=dtype, device=packed.device)
    first, second = codes.chunk(2, -1)
    first.copy_(packed & 15)
    second.copy_(packed >> 4)
    grouped = codes.unflatten(-1, (scales.shape[-1], -1))
    torch.addcmul(lows.to(dtype).unsqueeze(-1), grouped, scales.to(dtype).unsqueeze(-1), out=grouped)
    return codes
