"""The order of a packed weight that the matmul kernels read best: tiles that are contiguous in memory.

The neutral order, that of files, is row by row: a program that reads one group of many rows finds it in pieces of 64 or
128 bytes. In a tile lies one group of 32 rows. Of 64 int8 codes, word w holds 2·w and 2·w + 1 in the low bytes of its
halves, and 32 + 2·w and 33 + 2·w in the high ones: a masked word gives two neighbours, shifted by a byte two more.
"""

import torch
from torch import Tensor

TILE_ROWS = 32


def to_tiles(rows: Tensor, groups: int) -> Tensor:
    """Rows [out,…] of `groups` groups as contiguous tiles [out/32,groups,32,values of a group]."""
    tiles = rows.view(-1, TILE_ROWS, groups, rows[0].numel() // groups).transpose(1, 2)
    return _order_codes(tiles, (2, 16, 2), (-2, -1, -3)).contiguous()


def from_tiles(tiles: Tensor) -> Tensor:
    """Rows [out,groups·values] of tiles [out/32,groups,32,values]: the inverse of `to_tiles`, but for the shape."""
    return _order_codes(tiles, (16, 2, 2), (-1, -3, -2)).transpose(1, 2).flatten(2).flatten(0, 1)


def _order_codes(tiles: Tensor, sizes: tuple[int, int, int], dims: tuple[int, int, int]) -> Tensor:
    """int8 codes with every 64, seen as `sizes`, in the order of these dimensions; other values as they are."""
    if tiles.dtype != torch.int8:
        return tiles
    parts = tiles.unflatten(-1, (-1, *sizes))
    return parts.permute(*range(parts.dim() - 3), *(parts.dim() + dim for dim in dims)).flatten(-4)
