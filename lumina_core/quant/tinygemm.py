"""torch's own product with 4-bit weights on NVIDIA GPUs, known as tinygemm: the one that torchao calls.

It needs no Triton, and takes the numbers of `Int4` as they are, in an order of its own: a layer's pieces are arranged
for it, in place, when the model is loaded.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..kernels.reference import GROUP_SIZE, int4_matmul, unpack_codes
from ..kernels.samples import int4_sample
from ..kernels.select import self_test, unfit
from .schemes import Pieces

# A tile of its order: inputs, and outputs, of which a layer must be made up.
TILE_INPUTS, TILE_OUTPUTS = 128, 8
INNER_TILES = 8
# Of those that are put in order: bounds what that takes beside the weights.
OUTPUTS_AT_A_TIME = 1024
TRIAL_ROWS = (2, 64, 300)


@dataclass(frozen=True)
class Tinygemm:
    """The product on a device."""

    device: torch.device

    def fits(self, out_features: int, in_features: int) -> bool:
        """Whether it takes weights of this shape."""
        return in_features % TILE_INPUTS == 0 and out_features % TILE_OUTPUTS == 0

    def arranged(self, pieces: Pieces) -> Pieces:
        """The pieces of `Int4` in its order: the same bytes in all, under the same shapes and formats."""
        packed, scale_zero = pieces["packed"], pieces["scale_zero"]
        parts = packed.to(self.device).split(OUTPUTS_AT_A_TIME)
        ordered = torch.cat([convert(unpack_codes(part).flatten(1).to(torch.uint8)).flatten() for part in parts])
        by_groups = scale_zero.to(self.device).transpose(0, 1).contiguous()
        return {
            "packed": ordered.view(torch.uint8).view(packed.shape),
            "scale_zero": by_groups.view(scale_zero.shape),
        }

    def multiply(self, x: Tensor, pieces: Pieces) -> Tensor:
        """x [...,in] times the transpose of a weight [out,in] of arranged pieces."""
        packed, scale_zero = (pieces[name].to(self.device) for name in ("packed", "scale_zero"))
        out_features, groups = scale_zero.shape[:2]
        rows = x.flatten(0, -2).to(self.device, torch.bfloat16).contiguous()
        found = product(rows, packed, scale_zero.view(groups, out_features, 2))
        return found.to(x).unflatten(0, x.shape[:-1])


def choose_tinygemm(device: torch.device | str) -> tuple[Tinygemm | None, str]:
    """The product where it works on a device, and why it does or does not: a trial is held against plain operations."""
    if reason := unfit(device):
        return None, reason
    tried = Tinygemm(torch.device(device))

    def multiplied(x: Tensor, packed: Tensor, scale_zero: Tensor) -> Tensor:
        return tried.multiply(x, tried.arranged({"packed": packed, "scale_zero": scale_zero}))

    for rows in TRIAL_ROWS:
        tested = self_test(multiplied, int4_matmul, partial(int4_sample, device, torch.bfloat16, rows))
        if tested.reason:
            return None, tested.reason
    return tried, "tried on this device"


def convert(codes: Tensor) -> Tensor:
    """Codes 0 to 15, uint8 [out,in], in the order of the product."""
    pairs = codes[:, ::2] << 4 | codes[:, 1::2]
    return torch._convert_weight_to_int4pack(pairs.contiguous(), INNER_TILES)


def product(rows: Tensor, packed: Tensor, scale_zero: Tensor) -> Tensor:
    """rows [M,in] in bfloat16 times the transpose of a weight: bytes [out,in/2] and scales, zeros [groups,out,2]."""
    out_features, in_features = packed.shape[0], 2 * packed.shape[1]
    tiles = out_features // TILE_OUTPUTS, in_features // TILE_INPUTS, 32, INNER_TILES // 2
    return torch._weight_int4pack_mm(rows, packed.view(torch.int32).view(tiles), GROUP_SIZE, scale_zero)
