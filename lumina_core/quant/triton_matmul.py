"""The Triton backend: weights are dequantised in a GPU's registers.

A layer's packed tensors are put in contiguous tiles when the model is loaded (see `kernels.weight_tiles`), where its
shape is a multiple of a tile's; the kernels take both orders.
"""

import torch
from torch import Tensor

from ..kernels.buffers import Buffers
from ..kernels.reference import GROUP_SIZE
from ..kernels.select import Choice
from ..kernels.weight_tiles import TILE_ROWS, from_tiles, to_tiles
from .linear import MatmulBackend, QuantizedLinear, multiply_plain
from .schemes import PackedTensors

# With more rows, as in a prefill, dequantising the weight once costs less than once for every 128 rows.
MAX_ROWS = 1024
KERNEL_DTYPE = torch.bfloat16


def triton_backend(choice: Choice) -> MatmulBackend:
    """Multiplies few rows on a GPU by the kernel of a choice, everything else by plain torch."""

    def matmul(rows: Tensor, layer: QuantizedLinear, sum_splits: bool, buffers: Buffers | None = None) -> Tensor | None:
        # The rows of a window, which come in splits, take the kernel at any number: so they round alike, in buffers.
        many = sum_splits and len(rows) > MAX_ROWS
        if not rows.is_cuda or rows.dtype != KERNEL_DTYPE or many:
            return None
        tensors = (tensor.to(rows.device) for tensor in kernel_tensors(layer))
        result: Tensor = choice.function(rows, *tensors, sum_splits=sum_splits, buffers=buffers)
        return result

    def multiply(x: Tensor, layer: QuantizedLinear) -> Tensor:
        found = matmul(x.flatten(0, -2), layer, sum_splits=True)
        return multiply_plain(x, layer) if found is None else found.unflatten(0, x.shape[:-1])

    def split(x: Tensor, layer: QuantizedLinear, buffers: Buffers | None = None) -> Tensor:
        found = matmul(x, layer, sum_splits=False, buffers=buffers)
        return multiply_plain(x, layer)[None] if found is None else found

    return MatmulBackend(str(choice), multiply, split, repack, packed_rows, takes_neutral=True, alike=True)


def repack(layer: QuantizedLinear) -> PackedTensors | None:
    """The packed tensors in tiles, in their shapes; None where the weight is no multiple of a tile."""
    if layer.out_features % TILE_ROWS or layer.in_features % GROUP_SIZE:
        return None
    groups = layer.in_features // GROUP_SIZE
    return {
        name: to_tiles(tensor, groups).view(tensor.shape) if has_groups(tensor) else tensor.clone()
        for name, tensor in layer.packed_tensors.items()
    }


def packed_rows(layer: QuantizedLinear, first: int, end: int) -> PackedTensors:
    """Rows `first` to `end` of a repacked layer's packed tensors in the neutral order."""
    start, tiles = first % TILE_ROWS, slice(first // TILE_ROWS, -(-end // TILE_ROWS))
    rows = {}
    for (name, tensor), seen in zip(layer.packed_tensors.items(), kernel_tensors(layer), strict=True):
        if has_groups(tensor):
            rows[name] = from_tiles(seen[tiles]).unflatten(1, tensor.shape[1:])[start : start + end - first]
        else:
            rows[name] = tensor[first:end]
    return rows


def kernel_tensors(layer: QuantizedLinear) -> list[Tensor]:
    """The packed tensors as the kernel takes them: a repacked layer's as tiles [out/32,groups,32,values of a group]."""
    groups, tensors = layer.in_features // GROUP_SIZE, list(layer.packed_tensors.values())
    if not layer.repacked:
        return tensors
    return [t.view(-1, groups, TILE_ROWS, t[0].numel() // groups) if has_groups(t) else t for t in tensors]


def has_groups(tensor: Tensor) -> bool:
    """Whether a packed tensor has values for each group, not only for each row."""
    return tensor.dim() > 1
