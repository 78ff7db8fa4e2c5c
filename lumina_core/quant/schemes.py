"""Quantisation schemes: a weight [out,in] as packed tensors [out,...], whose rows can be cut and stacked.

The dequantised weight is bit-identical on every device: a value is one multiplication, which is exact (int4) or rounded
once (int8, fp8) in float32, and one rounded sum.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import CheckpointError
from ..kernels.reference import GROUP_SIZE, LOWEST_CODE, pack_codes, unpack_codes
from .hqq import HQQ, NEAREST, fit_zero

PackedTensors = dict[str, Tensor]
# Weights that are quantised at a time: as many as fit a CPU's cache; elsewhere as many as keep the device busy.
CPU_ELEMENTS, DEVICE_ELEMENTS = 2**18, 2**23
# A flipped bit gives larger values, and the range of a group that holds them overflows.
LARGEST = 1e36
HIGHEST_CODE = LOWEST_CODE + 15
FLOAT8, FLOAT8_MAX = torch.float8_e4m3fn, 448.0


@dataclass(frozen=True)
class PackedSpec:
    """A stored tensor [out,*columns]."""

    columns: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Int8:
    """A code −127 to 127 for each weight and a float32 scale for each row: weight = scale · code.

    Files of torchao have codes from −128 on. `packed_specs` are by name; `quantize` takes and `dequantize` returns a
    float32 weight [out,in]. Schemes that are `stored_as` the same differ only in how they multiply.
    """

    name: str = "int8"
    stored_as: str = "int8"

    def packed_specs(self, in_features: int) -> dict[str, PackedSpec]:
        return {"codes": PackedSpec((in_features,), torch.int8), "scale": PackedSpec((), torch.float32)}

    def quantize(self, weight: Tensor) -> PackedTensors:
        scale = (weight.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
        codes = (weight / scale[:, None]).round_().clamp_(-127, 127)
        return {"codes": codes.to(torch.int8), "scale": scale}

    def dequantize(self, packed: PackedTensors, in_features: int) -> Tensor:
        return packed["codes"].float().mul_(packed["scale"][:, None])


@dataclass(frozen=True)
class Int8Dynamic(Int8):
    """The packed tensors of `Int8`, for matmuls whose inputs are quantised to 8 bits too, row by row as they come."""

    name: str = "int8-dynamic"


@dataclass(frozen=True)
class Float8:
    """A value in float8_e4m3fn for each weight and a float32 scale for each row: weight = scale · value.

    The scale is the row's largest magnitude over 448, the largest value of the dtype, and values are rounded to the
    nearest, ties to even: the numbers of torchao's Float8 weights with `PerRow()`, but for a row of zeros, whose scale
    there is 0.
    """

    name: str = "fp8"
    stored_as: str = "fp8"

    def packed_specs(self, in_features: int) -> dict[str, PackedSpec]:
        return {"values": PackedSpec((in_features,), FLOAT8), "scale": PackedSpec((), torch.float32)}

    def quantize(self, weight: Tensor) -> PackedTensors:
        scale = (weight.abs().amax(1) / FLOAT8_MAX).clamp_min(torch.finfo(torch.float32).tiny)
        values = (weight / scale[:, None]).clamp_(-FLOAT8_MAX, FLOAT8_MAX)
        return {"values": values.to(FLOAT8), "scale": scale}

    def dequantize(self, packed: PackedTensors, in_features: int) -> Tensor:
        values, scale = packed["values"], packed["scale"][:, None]
        if values.device.type != "cpu":
            return values.float().mul_(scale)
        # A CPU converts from float16 ten times faster: the same bits there stand for 2⁻⁸ of the value.
        halves = (values.view(torch.int8).to(torch.int16) << 7).bitwise_and_(~0x4000).view(torch.float16)
        return halves.float().mul_(scale * 256)


@dataclass(frozen=True)
class Int4:
    """A code 0 to 15 for each weight, a bfloat16 scale and zero for 128 neighbours: weight = scale · (code − 8) + zero.

    4.25 bits a weight. This is the scheme of torch's `_weight_int4pack_mm` (tinygemm), but for the order of codes; a
    symmetric scheme would waste one of 16 codes. If the inputs are no multiple of 128, the last group is padded with
    copies of the last weight, which are stored and never used; the published sizes need no padding.

    The codes span the range of each group evenly, and the nearest is taken; with `rounding` hqq, the zero is fitted
    before. Scales with less squared error (least squares, a search of the range) had more divergence from the
    unquantised model on the demo (docs/results.md).
    """

    name: str = "int4"
    stored_as: str = "int4"
    rounding: str = NEAREST

    def packed_specs(self, in_features: int) -> dict[str, PackedSpec]:
        groups = -(-in_features // GROUP_SIZE)
        return {
            "packed": PackedSpec((groups * GROUP_SIZE // 2,), torch.uint8),
            "scale_zero": PackedSpec((groups, 2), torch.bfloat16),
        }

    def quantize(self, weight: Tensor) -> PackedTensors:
        missing = -weight.shape[1] % GROUP_SIZE
        groups = F.pad(weight, (0, missing), mode="replicate").unflatten(1, (-1, GROUP_SIZE))
        low, high = groups.aminmax(dim=-1, keepdim=True)
        step = ((high - low) / (HIGHEST_CODE - LOWEST_CODE)).clamp_min(torch.finfo(torch.bfloat16).tiny)
        scale, zero = step.bfloat16(), (low + high) / 2 - (LOWEST_CODE + HIGHEST_CODE) / 2 * step
        if self.rounding == HQQ:
            zero = fit_zero(groups, scale.float(), zero, LOWEST_CODE, HIGHEST_CODE)
        zero = zero.bfloat16()
        # The nearest code for scale and zero as they are stored.
        codes = ((groups - zero.float()) / scale.float()).round_().clamp_(LOWEST_CODE, HIGHEST_CODE) - LOWEST_CODE
        return {"packed": pack_codes(codes), "scale_zero": torch.cat((scale, zero), -1)}

    def dequantize(self, packed: PackedTensors, in_features: int) -> Tensor:
        codes = unpack_codes(packed["packed"]).add_(LOWEST_CODE)
        scale, zero = packed["scale_zero"].float().split(1, -1)
        return codes.mul_(scale).add_(zero).flatten(1)[:, :in_features]


Scheme = Int8 | Int4 | Float8
_ALL: tuple[Scheme, ...] = (Int8(), Int4(), Float8(), Int8Dynamic())
SCHEMES: Mapping[str, Scheme] = MappingProxyType({scheme.name: scheme for scheme in _ALL})


def quantize(
    scheme: Scheme,
    weight: Tensor,
    device: torch.device | str,
    name: str,
    on_chunk: Callable[[int], object] | None = None,
) -> PackedTensors:
    """The packed tensors of a weight [out,in] of any float dtype, computed on `device` some rows at a time.

    Calls `on_chunk` with the number of values after each; an exception that it raises comes through. Raises
    CheckpointError naming the weight if a value is not finite or beyond LARGEST.
    """
    on_cpu = torch.device(device).type == "cpu"
    rows = max(1, (CPU_ELEMENTS if on_cpu else DEVICE_ELEMENTS) // weight.shape[1])
    packed = {
        key: torch.empty(len(weight), *spec.columns, dtype=spec.dtype, device=device)
        for key, spec in scheme.packed_specs(weight.shape[1]).items()
    }
    for first in range(0, len(weight), rows):
        chunk = weight[first : first + rows]
        values = chunk.to(device).float()
        if not (values.abs() <= LARGEST).all():
            raise CheckpointError(
                f"`{name}` holds numbers that are not finite or beyond {LARGEST:g}; the file is damaged: get it again"
            )
        for key, part in scheme.quantize(values).items():
            packed[key][first : first + rows] = part
        if on_chunk is not None:
            on_chunk(chunk.numel())
    return packed
