"""The tinygemm backend: torch's own int4 matmul on NVIDIA GPUs, the one that torchao calls.

It needs no Triton, and takes the codes, scales and zeros of `Int4` in its own order: a layer's packed tensors are
repacked in place when the model is loaded.
"""

import torch
from torch import Tensor

from ..kernels.reference import GROUP_SIZE, int4_matmul, unpack_codes
from ..kernels.samples import int4_sample
from ..kernels.select import unsupported_device_reason
from ..kernels.self_test import Sample, self_test
from .linear import MatmulBackend, QuantizedLinear, multiply_plain
from .schemes import PackedTensors

# Inputs and outputs of a tile of its order; a layer must be a multiple of both.
TILE_INPUTS, TILE_OUTPUTS = 128, 8
INNER_TILES = 8
# Rows of a tile of the matmul.
TILE_ROWS = 16
# Outputs that are repacked at a time: bounds the memory that repacking takes.
OUTPUTS_AT_A_TIME = 1024
TEST_ROWS = (2, 64, 300)


def tinygemm_backend(device: torch.device | str, name: str) -> MatmulBackend:
    """Multiplies by tinygemm with repacked weights; by plain torch where it does not take a weight's shape."""

    def repack_layer(layer: QuantizedLinear) -> PackedTensors | None:
        supported = layer.in_features % TILE_INPUTS == 0 and layer.out_features % TILE_OUTPUTS == 0
        return repack(layer.packed_tensors, device) if supported else None

    def multiply_layer(x: Tensor, layer: QuantizedLinear) -> Tensor:
        return multiply(x, layer.packed_tensors, device) if layer.repacked else multiply_plain(x, layer)

    return MatmulBackend(name, multiply_layer, repack=repack_layer, tile_rows=TILE_ROWS)


def tinygemm_failure(device: torch.device | str) -> str:
    """Why tinygemm does not work on a device, or "" where it passes its self-tests."""
    if reason := unsupported_device_reason(device):
        return reason

    def repack_and_multiply(x: Tensor, packed: Tensor, scale_zero: Tensor) -> Tensor:
        return multiply(x, repack({"packed": packed, "scale_zero": scale_zero}, device), device)

    samples = (Sample.of(int4_sample, dtype=torch.bfloat16, rows=rows) for rows in TEST_ROWS)
    reasons = (self_test(repack_and_multiply, int4_matmul, sample, device).reason for sample in samples)
    return next(filter(None, reasons), "")


def repack(tensors: PackedTensors, device: torch.device | str) -> PackedTensors:
    """The packed tensors of `Int4` in tinygemm's order, in the same shapes and dtypes."""
    packed, scale_zero = tensors["packed"], tensors["scale_zero"]
    parts = packed.to(device).split(OUTPUTS_AT_A_TIME)
    ordered = torch.cat([convert(unpack_codes(part).flatten(1).to(torch.uint8)).flatten() for part in parts])
    by_groups = scale_zero.to(device).transpose(0, 1).contiguous()
    return {"packed": ordered.view(torch.uint8).view(packed.shape), "scale_zero": by_groups.view(scale_zero.shape)}


def multiply(x: Tensor, tensors: PackedTensors, device: torch.device | str) -> Tensor:
    """x [...,in] times the transpose of a weight [out,in] of repacked tensors, on the device."""
    packed, scale_zero = (tensors[name].to(device) for name in ("packed", "scale_zero"))
    out_features, groups = scale_zero.shape[:2]
    rows = x.flatten(0, -2).to(device, torch.bfloat16).contiguous()
    found = matmul(rows, packed, scale_zero.view(groups, out_features, 2))
    return found.to(x).unflatten(0, x.shape[:-1])


def convert(codes: Tensor) -> Tensor:
    """Codes 0 to 15, uint8 [out,in], in the order of the matmul."""
    pairs = codes[:, ::2] << 4 | codes[:, 1::2]
    return torch._convert_weight_to_int4pack(pairs.contiguous(), INNER_TILES)


def matmul(rows: Tensor, packed: Tensor, scale_zero: Tensor) -> Tensor:
    """rows [M,in] in bfloat16 times the transpose of a weight: bytes [out,in/2] and scales, zeros [groups,out,2]."""
    out_features, in_features = packed.shape[0], 2 * packed.shape[1]
    tiles = out_features // TILE_OUTPUTS, in_features // TILE_INPUTS, 32, INNER_TILES // 2
    return torch._weight_int4pack_mm(rows, packed.view(torch.int32).view(tiles), GROUP_SIZE, scale_zero)
