"""The low-rank branch beside a linear layer, whatever that is: y = W·x + B·(A·x). The weight W stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoint.config import TransformerConfig
from ..errors import InputError
from ..kernels.buffers import Buffers
from ..kernels.linear import linear
from .applied import AppliedLora
from .file import LowRank
from .keys import targets

# Ranks are padded with zeros to a multiple, which matmuls are fast with.
RANK_STEP = 8
# On a CPU rows are padded to a multiple: torch's matmuls with so small a matrix round a row by the number of rows, and
# not where that is a multiple of 8.
CPU_ROW_STEP = 8
# Of a layer: what each LoRA adds, its factor, and the first row of the linear layer that it adds to.
Parts = list[tuple[LowRank, float, int]]


class LowRankLinear(nn.Module):
    """A linear layer `base` and the branch of all LoRAs: `down` [rank,in], `up` [out,rank], which hold the factors.

    The branch is no parameter: what moves the weights of the base leaves it where it is.
    """

    def __init__(self, base: nn.Module, down: Tensor, up: Tensor):
        super().__init__()
        self.base, self.down, self.up = base, down, up

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.branch(x)

    def branch(self, x: Tensor) -> Tensor:
        """What is added [...,out] for x [...,in]. On a CPU a row's values depend on that row alone, bit for bit."""
        rows = x.flatten(0, -2)
        missing = -len(rows) % CPU_ROW_STEP if x.device.type == "cpu" else 0
        padded = F.pad(rows, (0, 0, 0, missing)) if missing else rows
        return linear(linear(padded, self.down), self.up)[: len(rows)].unflatten(0, x.shape[:-1])

    def partial_sums(self, x: Tensor, buffers: Buffers | None = None) -> Tensor:
        """The partial sums [splits,n,out] of the base for rows [n,in], the branch added to the first."""
        own: Callable[..., Tensor] | None = getattr(self.base, "partial_sums", None)
        sums = self.base(x)[None] if own is None else own(x, buffers)
        if buffers is None or x.device.type == "cpu":
            sums[0].add_(self.branch(x))
        else:
            self.add_in_buffers(sums[0], x, buffers)
        return sums

    def add_in_buffers(self, sums: Tensor, x: Tensor, buffers: Buffers) -> None:
        """Adds the branch of rows x [n,in] to sums [n,out] in place; allocates nothing but buffers.

        Sums of several splits are in float32: what is added is rounded to the dtype of x before.
        """
        small = buffers.empty("lora.down", (len(x), len(self.down)), x.dtype)
        torch.mm(x, self.down.t(), out=small)
        if sums.dtype == x.dtype:
            sums.addmm_(small, self.up.t())
            return
        added = buffers.empty("lora.up", tuple(sums.shape), x.dtype)
        torch.mm(small, self.up.t(), out=added)
        sums.add_(added)


def base_of(layer: nn.Module) -> nn.Module:
    """The linear layer without what LoRAs add."""
    return layer.base if isinstance(layer, LowRankLinear) else layer


def with_branch(
    base: nn.Module, parts: Parts, shape: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> LowRankLinear:
    """A linear layer of this shape (out, in) with the parts of a layer. Raises InputError where `dtype` overflows."""
    rank = padded_rank(parts)
    down, up = torch.zeros(rank, shape[1]), torch.zeros(shape[0], rank)
    first = 0
    for matrix, factor, row in parts:
        last = first + matrix.rank
        down[first:last] = matrix.down
        up[row : row + len(matrix.up), first:last] = factor * matrix.up.float()
        first = last
    for part in (down, up):
        if not bool(part.to(dtype).isfinite().all()):
            raise InputError(f"the values of a LoRA at this strength are too large for {dtype}; use a smaller strength")
    return LowRankLinear(base, down.to(device, dtype), up.to(device, dtype))


def padded_rank(parts: Parts) -> int:
    """The rank of a layer's branch: the sum of all parts, and zeros up to a multiple of RANK_STEP."""
    return -(-sum(matrix.rank for matrix, *_ in parts) // RANK_STEP) * RANK_STEP


def parts_by_layer(loras: Sequence[AppliedLora], config: TransformerConfig) -> dict[tuple[int, str], Parts]:
    """What LoRAs add, by layer and linear layer of its block."""
    where, found = targets(config), dict[tuple[int, str], Parts]()
    for applied in loras:
        for (layer, matrix), low_rank in applied.lora.matrices.items():
            target = where[matrix]
            part = low_rank, applied.strength * low_rank.scale, target.first_row
            found.setdefault((layer, target.linear), []).append(part)
    return found


def branch_bytes(loras: Sequence[AppliedLora], config: TransformerConfig, dtype: torch.dtype) -> int:
    """Bytes of the branches of LoRAs on a device."""
    return dtype.itemsize * sum(_branch_values(loras, config))


def _branch_values(loras: Sequence[AppliedLora], config: TransformerConfig) -> Iterator[int]:
    shapes = targets(config)
    for (_, linear_name), parts in parts_by_layer(loras, config).items():
        shape = shapes[linear_name]
        yield padded_rank(parts) * (shape.rows + shape.inputs)
