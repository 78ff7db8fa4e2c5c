"""PNG files: their chunks, and whether they hold all of their pixels."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# First column and row, and steps, of the seven passes of an interlaced picture.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PIECE = 2**20


def png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Name and bytes of each chunk after the signature; those of the last one may be cut off."""
    while len(header := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", header)
        yield name, header + file.read(length + 4)


def missing_bytes(file: BinaryIO) -> int:
    """Bytes of pixels that a PNG file lacks although its compressed data end as they should.

    Decoders leave such pixels black without an error. 0 where none are missing, and for data that no decoder reads.
    """
    file.seek(len(SIGNATURE))
    expected, inflate = 0, zlib.decompressobj()
    for name, chunk in png_chunks(file):
        if name == b"IHDR" and len(chunk) == 8 + 13 + 4:
            width, height, bits, colours, _, _, interlaced = struct.unpack(">IIBBBBB", chunk[8:-4])
            expected = _raw_bytes(width, height, bits * _CHANNELS.get(colours, 0), bool(interlaced))
        if name == b"IDAT":
            try:
                expected -= _inflated_bytes(inflate, chunk[8:-4], expected)
            except zlib.error:
                return 0
            if expected <= 0:
                return 0
    return expected if inflate.eof else 0


def _inflated_bytes(inflate: zlib._Decompress, data: bytes, most: int) -> int:
    """How many bytes compressed data hold, or more than `most`."""
    found = 0
    while data and found <= most:
        found += len(inflate.decompress(data, _PIECE))
        data = inflate.unconsumed_tail
    return found


def _raw_bytes(width: int, height: int, pixel_bits: int, interlaced: bool) -> int:
    """Bytes of the rows of a picture, each with the number of its filter."""
    found = 0
    for column, row, step_x, step_y in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - column) // step_x), -(-(height - row) // step_y)
        if columns > 0 and rows > 0:
            found += rows * (1 + (columns * pixel_bits + 7) // 8)
    return found
