"""Pictures whose end is zeros, as an interrupted download leaves them; decoders read some of these without an error."""

from __future__ import annotations

import struct

TAIL = 64
_JPEG_SCAN, _JPEG_END = 0xDA, b"\xff\xd9"
_PNG_END = b"IEND\xaeB`\x82"
_WEBP_PIXELS = (b"VP8 ", b"VP8L", b"ALPH", b"ANMF")


def zeros_in_place_of_pixels(content: bytes, name: str) -> int:
    """The number of zeros at the end of a file of Pillow's format `name` where pixels are missing; 0: none are.

    Zeros after the end of a picture are padding. Formats that are not compressed may end in black.
    """
    size = len(content.rstrip(b"\0"))
    zeros = len(content) - size
    is_whole = {"JPEG": _is_whole_jpeg, "MPO": _is_whole_jpeg, "PNG": _is_whole_png, "WEBP": _is_whole_webp}
    if zeros < TAIL or (name in is_whole and is_whole[name](content[:size])):
        return 0
    return zeros if name in is_whole or name == "AVIF" else 0


def _is_whole_png(content: bytes) -> bool:
    return _PNG_END in content


def _is_whole_jpeg(content: bytes) -> bool:
    """Whether the end of the picture follows its first scan; what comes before may hold a whole thumbnail."""
    position = 2
    while position + 4 <= len(content) and content[position] == 0xFF and content[position + 1] != _JPEG_SCAN:
        position += 2 + struct.unpack_from(">H", content, position + 2)[0]
    return _JPEG_END in content[position:]


def _is_whole_webp(content: bytes) -> bool:
    """Whether all pixels are there but for the few bytes that may be zeros themselves."""
    position = 12
    while position + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, position)
        position += 8 + size + size % 2
        if position >= len(content) + TAIL:
            return name not in _WEBP_PIXELS
    return True
