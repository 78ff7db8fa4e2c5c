"""TIFF files by hand, of variants that Pillow does not write."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np

RAW, DEFLATE = 1, 8
SHORT, LONG = "H", "L"
_TYPES = {"B": 1, SHORT: 3, LONG: 4}
_FORMATS = {"u": 1, "i": 2, "f": 3}
_HEADER = 8


def tiff(
    values: np.ndarray[Any, Any],
    order: str = "<",
    tags: dict[int, int | tuple[int, ...] | None] | None = None,
    compression: int = RAW,
    planar: int = 1,
) -> bytes:
    """A file of pixels [H,W] or [H,W,C], one strip a plane; `tags` replaces tags, and leaves out those of None."""
    pixels = values[..., None] if values.ndim == 2 else values
    height, width, channels = pixels.shape
    pixels = pixels.astype(pixels.dtype.newbyteorder(order))
    planes = [pixels] if planar == 1 else [pixels[..., k] for k in range(channels)]
    strips = [zlib.compress(plane.tobytes()) if compression == DEFLATE else plane.tobytes() for plane in planes]
    starts = [_HEADER + sum(map(len, strips[:k])) for k in range(len(strips))]
    numbers: dict[int, int | tuple[int, ...] | None] = {256: width, 257: height, 278: height, 277: channels}
    numbers |= {259: compression, 284: planar, 262: 1 if channels < 3 else 2}
    numbers |= {258: (8 * pixels.dtype.itemsize,) * channels, 339: (_FORMATS[pixels.dtype.kind],) * channels}
    numbers |= {273: tuple(starts), 279: tuple(map(len, strips)), **(tags or {})}
    directory = _HEADER + sum(map(len, strips))
    begin = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HL", 42, directory)
    return begin + b"".join(strips) + _directory(numbers, order, directory)


def _directory(numbers: dict[int, int | tuple[int, ...] | None], order: str, start: int) -> bytes:
    given = {
        tag: value if isinstance(value, tuple) else (value,)
        for tag, value in sorted(numbers.items())
        if value is not None
    }
    entries, more = b"", b""
    for tag, value in given.items():
        kind = LONG if max(value) > 0xFFFF or tag in (273, 279) else SHORT
        data = struct.pack(order + kind * len(value), *value)
        if len(data) > 4:
            more += data
            data = struct.pack(f"{order}L", start + 2 + 12 * len(given) + 4 + len(more) - len(data))
        entries += struct.pack(f"{order}HHL", tag, _TYPES[kind], len(value)) + data.ljust(4, b"\0")
    return struct.pack(f"{order}H", len(given)) + entries + bytes(4) + more
