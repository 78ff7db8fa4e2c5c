"""The order of a packed weight that the matmul kernels read best: tiles that are contiguous in memory.

The neutral order, that of files, is row by row: a program that reads one group of many rows finds it in pieces of 64 or
128 bytes. In a tile lies one group of 32 rows.
"""

from torch import Tensor

TILE_ROWS = 32


def to_tiles(rows: Tensor, groups: int) -> Tensor:
    """Rows [out,…] of `groups` groups as contiguous tiles [out/32,groups,32,values of a group]."""
    return rows.view(-1, TILE_ROWS, groups, rows[0].numel() // groups).transpose(1, 2).contiguous()


def from_tiles(tiles: Tensor) -> Tensor:
    """Rows [out,groups·values] of tiles [out/32,groups,32,values]: the inverse of `to_tiles`, but for the shape."""
    return tiles.transpose(1, 2).flatten(2).flatten(0, 1)
