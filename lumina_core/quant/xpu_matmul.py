"""The XPU backend: torch's own int4 matmul on Intel GPUs, by oneDNN.

It needs no Triton. It takes codes and scales as those of `Int4`, but whole numbers as zeros: the codes' middle, 8. What
the zeros of `Int4` add is a small matmul of its own, of the inputs' sums by group.
"""

import torch
from torch import Tensor

from ..kernels.reference import GROUP_SIZE, LOWEST_CODE, int4_matmul, unpack_codes
from ..kernels.samples import int4_sample
from ..kernels.self_test import Sample, self_test
from .linear import MatmulBackend, QuantizedLinear, multiply_plain
from .schemes import PackedTensors

# PyTorch 2.7 and later have it (aten/src/ATen/native/mkldnn/xpu/Blas.cpp, `_weight_int4pack_mm_xpu`).
OPERATOR = "_weight_int4pack_mm_with_scales_and_zeros"
# Outputs that are repacked at a time: bounds the memory that repacking takes.
OUTPUTS_AT_A_TIME = 1024
TEST_ROWS = (1, 2, 64, 300)


def xpu_backend(device: torch.device | str, name: str) -> MatmulBackend:
    """Multiplies by torch's matmul with repacked weights; by plain torch where a weight's groups are incomplete."""

    def repack_layer(layer: QuantizedLinear) -> PackedTensors | None:
        return repack(layer.packed_tensors, device) if layer.in_features % GROUP_SIZE == 0 else None

    def multiply_layer(x: Tensor, layer: QuantizedLinear) -> Tensor:
        return multiply(x, layer.packed_tensors, device) if layer.repacked else multiply_plain(x, layer)

    return MatmulBackend(name, multiply_layer, repack=repack_layer)


def xpu_failure(device: torch.device | str) -> str:
    """Why the matmul does not work on a device, or "" where it passes its self-tests."""
    if not hasattr(torch.ops.aten, OPERATOR):
        return f"PyTorch {torch.__version__} has none for Intel GPUs; 2.7 and later have"

    def repack_and_multiply(x: Tensor, packed: Tensor, scale_zero: Tensor) -> Tensor:
        return multiply(x, repack({"packed": packed, "scale_zero": scale_zero}, device), device)

    samples = (Sample.of(int4_sample, dtype=torch.bfloat16, rows=rows) for rows in TEST_ROWS)
    reasons = (self_test(repack_and_multiply, int4_matmul, sample, device).reason for sample in samples)
    return next(filter(None, reasons), "")


def repack(tensors: PackedTensors, device: torch.device | str) -> PackedTensors:
    """The packed tensors of `Int4` in the matmul's order, in the same shapes and dtypes.

    Bytes hold neighbouring codes, the first in the low bits; all scales [groups,out] come before all zeros.
    """
    packed, scale_zero = tensors["packed"], tensors["scale_zero"]
    parts = packed.to(device).split(OUTPUTS_AT_A_TIME)
    codes = (unpack_codes(part).flatten(1).to(torch.uint8) for part in parts)
    ordered = torch.cat([part[:, ::2] | part[:, 1::2] << 4 for part in codes])
    scales_first = scale_zero.to(device).permute(2, 1, 0).contiguous()
    return {"packed": ordered, "scale_zero": scales_first.view(scale_zero.shape)}


def multiply(x: Tensor, tensors: PackedTensors, device: torch.device | str) -> Tensor:
    """x [...,in] times the transpose of a weight [out,in] of repacked tensors, on the device."""
    packed, scale_zero = (tensors[name].to(device) for name in ("packed", "scale_zero"))
    out_features, groups = scale_zero.shape[:2]
    scale, zero = scale_zero.view(2, groups, out_features)
    rows = x.flatten(0, -2).to(device, torch.bfloat16).contiguous()
    sums = rows.float().unflatten(1, (groups, GROUP_SIZE)).sum(-1)
    found = torch.addmm(matmul(rows, packed, scale).float(), sums, zero.float())
    return found.to(x).unflatten(0, x.shape[:-1])


def matmul(rows: Tensor, packed: Tensor, scale: Tensor) -> Tensor:
    """rows [M,in] in bfloat16 times the transpose of scale · (code − 8): bytes [out,in/2], scales [groups,out]."""
    middle = torch.full(scale.shape, -LOWEST_CODE, dtype=torch.int8, device=scale.device)
    found: Tensor = getattr(torch.ops.aten, OPERATOR)(rows, packed.view(torch.int32), GROUP_SIZE, scale, middle)
    return found
