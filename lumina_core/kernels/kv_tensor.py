"""Keys, or values, of a layer as a cache stores them: as they are, or in 8 or 4 bits."""

from dataclasses import dataclass

import torch
from torch import Tensor

TINY = torch.finfo(torch.float32).tiny
MOST_INT8, MOST_INT4 = 127, 15


@dataclass(frozen=True)
class Stored:
    """Keys, or values, of a layer: numbers [rows,length,kv_heads,head_dim] and what scales them.

    int8 numbers −127 to 127 have float32 scales [rows,length,kv_heads,1], and stand for scale · number. Where there is
    a `lowest`, numbers are bytes [rows,length,kv_heads,head_dim/2] of two 4-bit codes, as `unpack_halves` takes them;
    scales and lowest numbers [rows,length,kv_heads,groups] are in bfloat16. Others stand for themselves and have no
    scales. A token's numbers depend on nothing but that token, so they are the same whatever is written beside it.
    """

    numbers: Tensor
    scales: Tensor | None = None
    lowest: Tensor | None = None

    @property
    def parts(self) -> list[Tensor]:
        """The tensors that there are."""
        return [part for part in (self.numbers, self.scales, self.lowest) if part is not None]

    @property
    def is_scaled(self) -> bool:
        """Whether numbers are in 8 bits: scale · number."""
        return self.scales is not None and self.lowest is None

    @property
    def groups(self) -> int:
        """Groups of a head in 4 bits, 0 in others."""
        return 0 if self.lowest is None else self.lowest.shape[-1]

    def read(self, length: int, dtype: torch.dtype) -> Tensor:
        """The first `length` slots of every row [rows,length,kv_heads,head_dim], scaled ones in `dtype`."""
        numbers = self.numbers[:, :length]
        if self.scales is None:
            return numbers
        scales = self.scales[:, :length]
        if self.lowest is None:
            return torch.mul(numbers, scales, out=torch.empty(numbers.shape, dtype=dtype, device=numbers.device))
        return unpack_halves(numbers, scales, self.lowest[:, :length], dtype)

    def write(self, slots: Tensor, new: Tensor) -> None:
        """Puts new ones [n,kv_heads,head_dim] at the slots [n] of all rows in turn."""
        for part, value in zip(self.parts, self._encoded(new), strict=True):
            part.flatten(0, 1).index_copy_(0, slots, value)

    def _encoded(self, new: Tensor) -> tuple[Tensor, ...]:
        if self.scales is None:
            return (new,)
        if self.lowest is None:
            scale = (new.abs().amax(-1, keepdim=True).float() / MOST_INT8).clamp_min(TINY)
            return (new / scale).round_().clamp_(-MOST_INT8, MOST_INT8).to(torch.int8), scale
        groups = new.float().unflatten(-1, (self.scales.shape[-1], -1))
        low, high = groups.aminmax(dim=-1, keepdim=True)
        low = low.bfloat16()
        scale = ((high - low) / MOST_INT4).clamp_min(TINY).bfloat16()
        codes = ((groups - low) / scale).round_().clamp_(0, MOST_INT4).to(torch.uint8).flatten(-2)
        first, second = codes.chunk(2, -1)
        return second << 4 | first, scale.squeeze(-1), low.squeeze(-1)


def unpack_halves(packed: Tensor, scales: Tensor, lowest: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers [...,n] in `dtype` of bytes [...,n/2]: lowest + scale · code, rounded once.

    The low bits of byte i are code i, the high ones code n/2 + i; scales and lowest numbers [...,groups] are each of
    n/groups neighbouring codes.
    """
    codes = torch.empty(*packed.shape[:-1], 2 * packed.shape[-1], dtype=dtype, device=packed.device)
    first, second = codes.chunk(2, -1)
    first.copy_(packed & 15)
    second.copy_(packed >> 4)
    grouped = codes.unflatten(-1, (scales.shape[-1], -1))
    torch.addcmul(lowest.to(dtype).unsqueeze(-1), grouped, scales.to(dtype).unsqueeze(-1), out=grouped)
    return codes


def parts_or_numbers(stored: Stored) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers, scales and lowest numbers for a kernel's arguments; for what there is not, the numbers stand."""
    numbers, scales, lowest = stored.numbers, stored.scales, stored.lowest
    return numbers, numbers if scales is None else scales, numbers if lowest is None else lowest
