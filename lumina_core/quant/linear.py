"""A linear layer on quantised weights, and how it multiplies."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.linear import linear
from ..kernels.tiles import split_count
from .schemes import Pieces, Scheme

# Weights that are given back at a time: bounds what a product takes beside its input and output. Four times as many
# take twice as long on a CPU, where no allocation so large is kept for the next.
PLAIN_ELEMENTS = 2**22
# In each of them: unpacked codes, float32, the format of the computation.
PLAIN_BYTES_PER_ELEMENT = 10


@dataclass(frozen=True)
class Kernel:
    """A way to multiply: input [...,in] times the weight's transpose gives [...,out].

    `split` gives the product of rows [n,in] as the partial sums [splits,n,out] in which it is worked out, where it is.
    `arrange` gives the pieces in an order that it takes, under the same shapes; None where it takes them as they are.
    """

    name: str
    multiply: Callable[[Tensor, "QuantizedLinear"], Tensor]
    split: Callable[[Tensor, "QuantizedLinear"], Tensor] | None = None
    arrange: Callable[["QuantizedLinear"], Pieces | None] | None = None


class QuantizedLinear(nn.Module):
    """A linear layer without bias whose weight is stored as a scheme's pieces, each a parameter of that name.

    Parameters, not buffers: ComfyUI's model patchers move modules that own parameters. What they leave behind when
    memory is short is brought to the input's device for the product alone.
    """

    def __init__(self, scheme: Scheme, kernel: Kernel, in_features: int, out_features: int, bias: bool = False):
        super().__init__()
        assert not bias, "the transformer's linear layers have no bias"
        self.scheme, self.kernel = scheme, kernel
        self.in_features, self.out_features = in_features, out_features
        self.arranged = False
        pieces = scheme.pieces(in_features)
        self.piece_names = tuple(pieces)
        for name, piece in pieces.items():
            empty = torch.empty(out_features, *piece.columns, dtype=piece.dtype)
            self.register_parameter(name, nn.Parameter(empty, requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.kernel.multiply(x, self)

    def partial_sums(self, x: Tensor) -> Tensor:
        """The product of rows [n,in] as [splits,n,out], whose sum over the splits it is."""
        return self.kernel.multiply(x, self)[None] if self.kernel.split is None else self.kernel.split(x, self)

    @property
    def splits(self) -> int:
        """Partial sums that `partial_sums` gives."""
        return 1 if self.kernel.split is None else split_count(self.in_features, self.out_features)

    @property
    def kernel_name(self) -> str:
        """What multiplies: the kernel, or plain torch where the kernel arranges weights and not those of this shape."""
        falls_back = self.kernel.arrange is not None and not self.arranged
        return f"plain (no weight of this shape: {self.kernel.name})" if falls_back else self.kernel.name

    @property
    def stored(self) -> Pieces:
        """The pieces, where and as they are."""
        return {name: getattr(self, name) for name in self.piece_names}

    def arrange(self) -> None:
        """Puts the pieces in the order that the kernel takes, in place; the kernel alone can use them then."""
        pieces = None if self.kernel.arrange is None else self.kernel.arrange(self)
        if pieces is not None:
            for name, piece in pieces.items():
                getattr(self, name).copy_(piece)
            self.arranged = True

    @property
    def rows_at_a_time(self) -> int:
        """Rows that the plain kernel gives back at a time."""
        return min(self.out_features, max(1, PLAIN_ELEMENTS // self.in_features))

    @property
    def scratch_bytes(self) -> int:
        """About what a product takes beside its input and output."""
        return self.rows_at_a_time * self.in_features * PLAIN_BYTES_PER_ELEMENT

    def weight_rows(self, first: int, end: int, like: Tensor) -> Tensor:
        """Rows `first` to `end` of the weight [out,in], on the device and in the format of `like`."""
        assert not self.arranged, "the pieces are in an order of the kernel's own"
        pieces: Pieces = {name: piece[first:end].to(like.device) for name, piece in self.stored.items()}
        return self.scheme.dequantize(pieces, self.in_features).to(like.dtype)


def multiply_plain(x: Tensor, layer: QuantizedLinear) -> Tensor:
    """The product with the weight given back some rows at a time, by plain torch operations."""
    rows = layer.rows_at_a_time
    starts = range(0, layer.out_features, rows)
    parts = [linear(x, layer.weight_rows(first, first + rows, x)) for first in starts]
    return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]


PLAIN = Kernel("plain", multiply_plain)


def quantized_operations(scheme: Scheme, operations: Any, kernel: Kernel = PLAIN) -> Any:
    """The layer classes `operations` with linear layers that store `scheme` and multiply by `kernel`."""
    return SimpleNamespace(Linear=partial(QuantizedLinear, scheme, kernel), RMSNorm=operations.RMSNorm)
