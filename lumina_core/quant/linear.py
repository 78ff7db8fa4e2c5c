"""A linear layer with quantised weights, and the backend that multiplies by them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.buffers import Buffers
from ..kernels.linear import linear
from ..kernels.tiles import split_count
from .schemes import PackedTensors, Scheme

# Weights that are dequantised at a time: bounds the memory of a matmul. Four times as many take twice as long on a CPU,
# whose allocator does not reuse blocks that large.
PLAIN_ELEMENTS = 2**22
# Of each of them: unpacked codes, float32, the dtype of the computation.
PLAIN_BYTES_PER_ELEMENT = 10


@dataclass(frozen=True)
class MatmulBackend:
    """A way to multiply input [...,in] by the weight's transpose, giving [...,out].

    `split` returns the matmul of rows [n,in] as partial sums [splits,n,out], from the buffers where it is given any;
    None where it is not split. `repack` returns the packed tensors in the backend's own order, in the same shapes and
    never in the same memory; None for a layer that it leaves as it is. `packed_rows(layer, first, end)` returns rows of
    a repacked layer in the neutral order; None where a backend cannot. `takes_neutral` says that the backend also
    multiplies by layers that it leaves as they are, `may_change` that another choice may find a better one, `alike`
    that it rounds a row alike in any number of rows, `tile_rows` that its time grows in steps of so many rows.
    """

    name: str
    multiply: Callable[[Tensor, "QuantizedLinear"], Tensor]
    split: Callable[[Tensor, "QuantizedLinear", Buffers | None], Tensor] | None = None
    repack: Callable[["QuantizedLinear"], PackedTensors | None] | None = None
    packed_rows: Callable[["QuantizedLinear", int, int], PackedTensors] | None = None
    takes_neutral: bool = False
    may_change: bool = False
    alike: bool = False
    tile_rows: int | None = None


class QuantizedLinear(nn.Module):
    """A linear layer without bias that stores its weight as the packed tensors of a scheme, each a parameter.

    Parameters, not buffers: ComfyUI's model patchers move modules that own parameters. A parameter that they leave on
    another device goes to the input's device for the matmul alone.
    """

    def __init__(self, scheme: Scheme, backend: MatmulBackend, in_features: int, out_features: int, bias: bool = False):
        super().__init__()
        assert not bias, "the transformer's linear layers have no bias"
        self.scheme, self.backend = scheme, backend
        self.in_features, self.out_features = in_features, out_features
        self.repacked = False
        specs = scheme.packed_specs(in_features)
        self.packed_names = tuple(specs)
        for name, spec in specs.items():
            empty = torch.empty(out_features, *spec.columns, dtype=spec.dtype)
            self.register_parameter(name, nn.Parameter(empty, requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.backend.multiply(x, self)

    def partial_sums(self, x: Tensor, buffers: Buffers | None = None) -> Tensor:
        """The matmul of rows [n,in] as [splits,n,out], to be summed over the splits."""
        if self.backend.split is None:
            return self.backend.multiply(x, self)[None]
        return self.backend.split(x, self, buffers)

    @property
    def splits(self) -> int:
        """The splits of `partial_sums`."""
        return 1 if self.backend.split is None else split_count(self.in_features, self.out_features)

    @property
    def backend_name(self) -> str:
        """The backend, or plain torch where the backend does not take a weight of this shape."""
        return f"plain (no weight of this shape: {self.backend.name})" if self._falls_back else self.backend.name

    @property
    def rounds_alike(self) -> bool:
        """Whether a row has the same result in any number of rows, bit for bit."""
        return self.backend.alike and not self._falls_back

    @property
    def _falls_back(self) -> bool:
        return not (self.backend.repack is None or self.backend.takes_neutral or self.repacked)

    @property
    def packed_tensors(self) -> PackedTensors:
        return {name: getattr(self, name) for name in self.packed_names}

    def repack(self) -> None:
        """Puts the packed tensors in the backend's order, in place, once.

        `state_dict` holds that order too: it can be moved and loaded into this layer again, and is not for a file.
        """
        assert not self.repacked, "the packed tensors are in the backend's own order already"
        tensors = None if self.backend.repack is None else self.backend.repack(self)
        if tensors is not None:
            for name, tensor in tensors.items():
                getattr(self, name).copy_(tensor)
            self.repacked = True

    @property
    def rows_at_a_time(self) -> int:
        """Rows that `multiply_plain` dequantises at a time."""
        return min(self.out_features, max(1, PLAIN_ELEMENTS // self.in_features))

    @property
    def scratch_bytes(self) -> int:
        """Bytes that a matmul takes beside its input and output, about."""
        return self.rows_at_a_time * self.in_features * PLAIN_BYTES_PER_ELEMENT

    def weight_rows(self, first: int, end: int, like: Tensor) -> Tensor:
        """Rows `first` to `end` of the weight [out,in], on the device and in the dtype of `like`."""
        if self.repacked:
            assert self.backend.packed_rows is not None, "the packed tensors are in the backend's own order"
            rows = self.backend.packed_rows(self, first, min(end, self.out_features))
        else:
            rows = {name: tensor[first:end] for name, tensor in self.packed_tensors.items()}
        on_device: PackedTensors = {name: tensor.to(like.device) for name, tensor in rows.items()}
        return self.scheme.dequantize(on_device, self.in_features).to(like.dtype)


def multiply_plain(x: Tensor, layer: QuantizedLinear) -> Tensor:
    """The matmul by plain torch operations, with the weight dequantised some rows at a time."""
    rows = layer.rows_at_a_time
    starts = range(0, layer.out_features, rows)
    parts = [linear(x, layer.weight_rows(first, first + rows, x)) for first in starts]
    return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]


PLAIN = MatmulBackend("plain", multiply_plain)


def quantized_operations(scheme: Scheme, operations: Any, backend: MatmulBackend = PLAIN) -> Any:
    """The layer classes `operations` with linear layers that store `scheme` and multiply by `backend`."""
    return SimpleNamespace(Linear=partial(QuantizedLinear, scheme, backend), RMSNorm=operations.RMSNorm)
