"""The Triton backend: weights are dequantised in a GPU's registers."""

import torch
from torch import Tensor

from ..kernels.buffers import Buffers
from ..kernels.select import Choice
from .linear import MatmulBackend, QuantizedLinear, multiply_plain

# With more rows, as in a prefill, dequantising the weight once costs less than once for every tile of rows.
MAX_ROWS = 1024
KERNEL_DTYPE = torch.bfloat16


def triton_backend(choice: Choice) -> MatmulBackend:
    """Multiplies few rows on a GPU by the kernel of a choice, everything else by plain torch."""

    def matmul(rows: Tensor, layer: QuantizedLinear, sum_splits: bool, buffers: Buffers | None = None) -> Tensor | None:
        if not rows.is_cuda or rows.dtype != KERNEL_DTYPE or len(rows) > MAX_ROWS:
            return None
        tensors = (tensor.to(rows.device) for tensor in layer.packed_tensors.values())
        result: Tensor = choice.function(rows, *tensors, sum_splits=sum_splits, buffers=buffers)
        return result

    def multiply(x: Tensor, layer: QuantizedLinear) -> Tensor:
        found = matmul(x.flatten(0, -2), layer, sum_splits=True)
        return multiply_plain(x, layer) if found is None else found.unflatten(0, x.shape[:-1])

    def split(x: Tensor, layer: QuantizedLinear, buffers: Buffers | None = None) -> Tensor:
        found = matmul(x, layer, sum_splits=False, buffers=buffers)
        return multiply_plain(x, layer)[None] if found is None else found

    return MatmulBackend(str(choice), multiply, split)
