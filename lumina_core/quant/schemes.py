"""How a linear layer's weight [out,in] is stored in few bits: as pieces [out,...], so that rows can be cut and stacked.

What is given back is the same on every device, bit for bit: each number is one product that float32 holds exactly (4
bits) or rounds once (8 bits), and one rounded sum.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import CheckpointError
from ..kernels.reference import GROUP_SIZE, LOWEST_CODE, pack_codes, unpack_codes

Pieces = dict[str, Tensor]
# Weights that are quantised at a time: what stays in a CPU's cache; elsewhere what keeps the device busy.
CPU_ELEMENTS, DEVICE_ELEMENTS = 2**18, 2**23
# A flipped bit makes numbers of this size, and the range of a group that holds them overflows.
LARGEST = 1e36
HIGHEST_CODE = LOWEST_CODE + 15


@dataclass(frozen=True)
class Piece:
    """A stored tensor [out,*columns]."""

    columns: tuple[int, ...]
    dtype: torch.dtype


class Scheme(Protocol):
    """A way to store a weight [out,in]."""

    @property
    def name(self) -> str: ...

    def pieces(self, in_features: int) -> dict[str, Piece]:
        """What is stored of each row of `in_features` weights."""

    def quantize(self, weight: Tensor) -> Pieces:
        """The pieces of a weight [out,in] in float32."""

    def dequantize(self, pieces: Pieces, in_features: int) -> Tensor:
        """The weight [out,in] in float32."""


@dataclass(frozen=True)
class Int8:
    """One code −127 to 127 a weight and one float32 scale a row: weight = scale · code."""

    name: str = "int8"

    def pieces(self, in_features: int) -> dict[str, Piece]:
        return {"codes": Piece((in_features,), torch.int8), "scale": Piece((), torch.float32)}

    def quantize(self, weight: Tensor) -> Pieces:
        scale = (weight.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
        codes = (weight / scale[:, None]).round_().clamp_(-127, 127)
        return {"codes": codes.to(torch.int8), "scale": scale}

    def dequantize(self, pieces: Pieces, in_features: int) -> Tensor:
        return pieces["codes"].float().mul_(pieces["scale"][:, None])


@dataclass(frozen=True)
class Int4:
    """One code 0 to 15 a weight; scale and zero in bfloat16 for 128 neighbours in a row: scale · (code − 8) + zero.

    4.25 bits a weight. This is the form of torch's kernel `_weight_int4pack_mm` (tinygemm, which torchao calls too),
    but for the order of codes; a symmetric form would waste one of 16 codes. An input that is no multiple of 128 has
    its last group filled up with copies of its last weight, which are stored and never used; the published sizes
    (4096, 11008; 2048, 8192) need none.

    The codes are spread evenly over the range of each group, and the nearest is taken. Scales with less squared error
    (least squares, a search of the range) had more divergence from the unrounded model on the demo
    (benchmarks/RESULTS.md).
    """

    name: str = "int4"

    def pieces(self, in_features: int) -> dict[str, Piece]:
        groups = -(-in_features // GROUP_SIZE)
        return {
            "packed": Piece((groups * GROUP_SIZE // 2,), torch.uint8),
            "scale_zero": Piece((groups, 2), torch.bfloat16),
        }

    def quantize(self, weight: Tensor) -> Pieces:
        missing = -weight.shape[1] % GROUP_SIZE
        groups = F.pad(weight, (0, missing), mode="replicate").unflatten(1, (-1, GROUP_SIZE))
        low, high = groups.aminmax(dim=-1, keepdim=True)
        step = ((high - low) / (HIGHEST_CODE - LOWEST_CODE)).clamp_min(torch.finfo(torch.bfloat16).tiny)
        scale, zero = step.bfloat16(), ((low + high) / 2 - (LOWEST_CODE + HIGHEST_CODE) / 2 * step).bfloat16()
        # The nearest by scale and zero as they are stored.
        codes = ((groups - zero.float()) / scale.float()).round_().clamp_(LOWEST_CODE, HIGHEST_CODE) - LOWEST_CODE
        return {"packed": pack_codes(codes), "scale_zero": torch.cat((scale, zero), -1)}

    def dequantize(self, pieces: Pieces, in_features: int) -> Tensor:
        codes = unpack_codes(pieces["packed"]).add_(LOWEST_CODE)
        scale, zero = pieces["scale_zero"].float().split(1, -1)
        return codes.mul_(scale).add_(zero).flatten(1)[:, :in_features]


SCHEMES: Mapping[str, Scheme] = MappingProxyType({scheme.name: scheme for scheme in (Int8(), Int4())})


def quantize(scheme: Scheme, weight: Tensor, device: torch.device | str, name: str) -> Pieces:
    """The pieces, on `device`, of a weight [out,in] of any float format; worked out there, some rows at a time.

    Raises CheckpointError, naming the weight, when it holds a number that is not finite or beyond LARGEST.
    """
    on_cpu = torch.device(device).type == "cpu"
    rows = max(1, (CPU_ELEMENTS if on_cpu else DEVICE_ELEMENTS) // weight.shape[1])
    parts = []
    for chunk in weight.split(rows):
        values = chunk.to(device).float()
        if not (values.abs() <= LARGEST).all():
            raise CheckpointError(
                f"`{name}` holds numbers that are not finite or beyond {LARGEST:g}; the file is damaged: get it again"
            )
        parts.append(scheme.quantize(values))
    return {piece: torch.cat([part[piece] for part in parts]) for piece in parts[0]}
