"""Two 4-bit codes in a byte, in the order that torch's `_convert_weight_to_int4pack` takes on CUDA."""

import torch
from torch import Tensor


def pack_nibbles(codes: Tensor) -> Tensor:
    """Bytes [...,n/2] of codes 0 to 15 [...,n]: of each pair the first is the high half of the byte."""
    high, low = codes.to(torch.uint8).unflatten(-1, (-1, 2)).unbind(-1)
    return high << 4 | low


def unpack_nibbles(packed: Tensor) -> Tensor:
    """Codes 0 to 15, uint8 [...,2n], of bytes [...,n]."""
    return torch.stack((packed >> 4, packed & 15), dim=-1).flatten(-2)
