"""The backend for int8 weights and inputs: torch's integer matmul, with the inputs quantised row by row.

The arithmetic is that of torchao's int8 dynamic quantisation per row, with one rounding at the end. torchao is not
called. It calls the same matmul: on a CPU it adds up the weight's columns again for every call (two rows by a weight of
22,016 × 4,096 take 390 ms instead of 14, docs/results.md), and on a GPU it copies the weight in another order for every
call, and computes in float32 with 16 rows and fewer, unless it is compiled (torchao 0.18, `kernel/intmm.py`).
"""

import platform

import torch
from torch import Tensor
from torch.nn import functional as F

from ..kernels.linear import linear
from ..kernels.samples import int8_sample
from ..kernels.select import PASSED, unsupported_device_reason
from ..kernels.self_test import Sample, self_test
from .linear import PLAIN_ELEMENTS, MatmulBackend, QuantizedLinear

# torch has CUDA's integer matmul for more than 16 rows, of inputs and outputs in multiples of 8.
CUDA_ROWS, CUDA_MULTIPLE = 24, 8
# oneDNN multiplies up to so many rows faster one by one: 6 ms each for 22,016 × 4,096, or 33 ms for up to 16 at once.
CPU_ROWS_ALONE = 4
# Rows that are multiplied at a time: bounds the memory of sums in 32 bits.
ROWS_AT_A_TIME = 256
TEST_ROWS = (1, 5, 40)


def int8_dynamic_backend(device: torch.device | str) -> MatmulBackend:
    """torch's integer matmul where it passes its self-tests; elsewhere its reference. The name says which and why.

    Integer sums are exact, so that a row's result does not depend on the other rows.
    """
    reason = _unsupported_reason(torch.device(device))
    if not reason:
        samples = (Sample.of(int8_sample, dtype=torch.bfloat16, rows=rows) for rows in TEST_ROWS)
        reasons = (self_test(int8_dynamic_matmul, int8_dynamic_reference, one, device).reason for one in samples)
        reason = next(filter(None, reasons), "")
    if reason:
        return MatmulBackend(f"plain, inputs in 8 bits ({reason})", _reference_layer)
    return MatmulBackend(f"torch's int8 matmul, inputs in 8 bits ({PASSED})", _layer, alike=True)


def _unsupported_reason(device: torch.device) -> str:
    """Why torch has no fast integer matmul on a device, or ""."""
    if device.type != "cpu":
        return unsupported_device_reason(device)
    is_fast = platform.machine().lower() in ("x86_64", "amd64") and torch.backends.mkldnn.is_available()
    return "" if is_fast else "torch's integer matmul is slow without oneDNN on x86"


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes −127 to 127 of x [n,in] in float32, and a float32 scale [n,1] for each row: x = scale · code."""
    scale = (x.abs().amax(-1, keepdim=True).float() / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return (x / scale).round_().clamp_(-127, 127), scale


def int8_dynamic_matmul(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """x [n,in], quantised, times the transpose of an int8 weight [out,in], [n,out] in the dtype of x.

    `codes` int8 [out,in], `scale` float32 [out]: weight = scale · code.
    """
    rows, row_scale = quantize_rows(x)
    product = _cuda_product if x.is_cuda else _cpu_product
    return product(rows.to(torch.int8), codes).float().mul_(row_scale).mul_(scale).to(x.dtype)


def int8_dynamic_reference(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """As `int8_dynamic_matmul`, in plain operations; sums of integers in float32 are exact up to 2²⁴."""
    rows, row_scale = quantize_rows(x)
    parts = codes.split(max(1, PLAIN_ELEMENTS // codes.shape[1]))
    product = torch.cat([linear(rows, part.float()) for part in parts], -1)
    return product.mul_(row_scale).mul_(scale).to(x.dtype)


def _cpu_product(rows: Tensor, codes: Tensor) -> Tensor:
    """Integers [n,out]. The weight comes first where there are many rows, since oneDNN reorders what comes second."""
    if len(rows) <= CPU_ROWS_ALONE:
        return torch.cat([torch._int_mm(row, codes.t()) for row in rows.split(1)])
    return torch._int_mm(codes, rows.t()).t()


def _cuda_product(rows: Tensor, codes: Tensor) -> Tensor:
    missing = max(CUDA_ROWS, -(-len(rows) // CUDA_MULTIPLE) * CUDA_MULTIPLE) - len(rows)
    return torch._int_mm(F.pad(rows, (0, 0, 0, missing)), codes.t())[: len(rows)]


def _layer(x: Tensor, layer: QuantizedLinear) -> Tensor:
    in_multiples = layer.in_features % CUDA_MULTIPLE == layer.out_features % CUDA_MULTIPLE == 0
    if x.device.type != "cpu" and not (x.is_cuda and in_multiples):
        return _reference_layer(x, layer)
    weight = [tensor.to(x.device) for tensor in layer.packed_tensors.values()]
    parts = [int8_dynamic_matmul(part, *weight) for part in x.flatten(0, -2).split(ROWS_AT_A_TIME)]
    return (torch.cat(parts) if len(parts) > 1 else parts[0]).unflatten(0, x.shape[:-1])


def _reference_layer(x: Tensor, layer: QuantizedLinear) -> Tensor:
    weight = (tensor.to(x.device) for tensor in layer.packed_tensors.values())
    return int8_dynamic_reference(x.flatten(0, -2), *weight).unflatten(0, x.shape[:-1])
