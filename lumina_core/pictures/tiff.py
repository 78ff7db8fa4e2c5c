"""TIFF pictures: what Pillow would decode wrong is refused or put right, and what it does not decode is described."""

from __future__ import annotations

import io
import logging
from typing import Any, BinaryIO

from PIL import Image, ImageFile, TiffImagePlugin

from ..errors import InputError
from .levels import UNSIGNED_32, WHITE_IS_ZERO

logger = logging.getLogger(__name__)

_WIDTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 258, 259, 262, 266
_HEIGHT, _STRIP_ROWS, _TILE_WIDTH, _TILE_HEIGHT = 257, 278, 322, 323
_STRIPS, _CHANNELS, _PLANAR, _TILES, _EXTRA, _FORMAT = 273, 277, 284, 324, 338, 339
_SUBFILE_TYPE, _OLD_SUBFILE_TYPE, _SUBSAMPLING, _DNG_VERSION = 254, 255, 530, 50706
_GREY, _RGB, _PALETTE, _CMYK, _YCBCR = (0, 1), 2, 3, 5, 6
_UNSIGNED, _SIGNED, _PREMULTIPLIED, _IS_THUMBNAIL, _OLD_THUMBNAIL = 1, 2, 1, 1, 2
_FORMATS = {1: "unsigned integers", 2: "signed integers", 3: "floats", 5: "complex integers", 6: "complex floats"}
_COLOURS = {
    0: "grey, 0 white",
    1: "grey",
    2: "RGB",
    3: "palette colours",
    5: "CMYK",
    6: "YCbCr",
    8: "Lab",
    32803: "raw sensor values",
    34892: "raw linear values",
}
# libtiff gives values in the order of this machine; Pillow takes them for the order of the file.
_IN_NATIVE_ORDER = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}
_ADVICE = "save it as a PNG of 8 or 16 bits"


def prepare_tiff(image: Image.Image, name: str) -> None:
    """Readies a TIFF picture that is not decoded yet, so that `eight_bits` gets its values; any other stays as it is.

    Raises InputError for variants that would be decoded wrong, and for the thumbnail of a raw photo.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or WHITE_IS_ZERO in image.info:
        return
    tags = image.tag_v2
    if refusal := _refusal(tags):
        raise InputError(refusal)
    photometric = _numbers(tags, _PHOTOMETRIC, 0)[0]
    if _PHOTOMETRIC not in tags:
        logger.warning("%s does not say whether 0 is black or white: read as white", name)
    image.info[WHITE_IS_ZERO] = photometric == 0
    image.info[UNSIGNED_32] = image.mode == "I" and _kind(tags) == ({32}, {_UNSIGNED})
    image.tile = [_in_native_order(*tile) for tile in image.tile]


def describe_tiff(file: BinaryIO) -> str | None:
    """What a TIFF file holds, such as "a TIFF picture of 64-bit floats, grey"; None where its tags are broken."""
    try:
        tags = _first_tags(file)
        start = max(_numbers(tags, _STRIPS, 0) + _numbers(tags, _TILES, 0))
        if _WIDTH not in tags or not 0 < start < file.seek(0, io.SEEK_END):
            return None
        return _description(tags)
    except Exception:  # broken tags raise anything
        return None


def _description(tags: Any) -> str:
    bits, formats = _kind(tags)
    colours, compression = _numbers(tags, _PHOTOMETRIC, 0)[0], _numbers(tags, _COMPRESSION, 1)[0]
    numbers = " and ".join(_FORMATS.get(one, f"numbers of format {one}") for one in sorted(formats))
    parts = [
        f"it is a TIFF picture of {'- and '.join(map(str, sorted(bits)))}-bit {numbers}",
        _COLOURS.get(colours, f"photometric interpretation {colours}"),
    ]
    if (channels := _numbers(tags, _CHANNELS, 1)[0]) > 1:
        parts.append(f"{channels} channels")
    if compression != 1:
        known = TiffImagePlugin.COMPRESSION_INFO.get(compression, "a kind that is not known").removeprefix("tiff_")
        parts.append(f"compression {compression} ({known})")
    return f"{', '.join(parts)}, a variant that is not read: {_ADVICE}"


def _refusal(tags: Any) -> str | None:
    """Why a picture would be decoded wrong, and what to do."""
    bits, formats = _kind(tags)
    if _DNG_VERSION in tags:
        return "it is a raw photo (DNG), of which only a preview could be read: convert it to JPEG or PNG"
    is_old_thumbnail = _numbers(tags, _OLD_SUBFILE_TYPE, 0)[0] == _OLD_THUMBNAIL
    if is_old_thumbnail or _numbers(tags, _SUBFILE_TYPE, 0)[0] & _IS_THUMBNAIL:
        return "its first image is a thumbnail, as in raw photos: convert it to JPEG or PNG"
    if 8 in bits and _SIGNED in formats:
        return (
            "it holds signed 8-bit numbers, from -128 to 127, which are not read: save them as unsigned ones, 0 to 255"
        )
    if _numbers(tags, _PLANAR, 1)[0] == 2 and not _planes_are_read(tags):
        return f"its channels are stored one after another (PlanarConfiguration 2), which is not read here: {_ADVICE}"
    if (expected := _parts(tags)) > (found := len(_numbers(tags, _TILES if _TILES in tags else _STRIPS, 0))):
        return f"it has {found} of {expected} strips or tiles of pixels; it is damaged: save or download it again"
    is_subsampled = _numbers(tags, _SUBSAMPLING, 1) not in ((1,), (1, 1))
    if _numbers(tags, _PHOTOMETRIC, 0)[0] == _YCBCR and _numbers(tags, _COMPRESSION, 1)[0] == 1 and is_subsampled:
        return f"its colours are subsampled YCbCr without compression, which is not read: {_ADVICE}"
    return None


def _parts(tags: Any) -> int:
    """The strips or tiles that a picture of its size has."""
    width, height = _numbers(tags, _WIDTH, 0)[0], _numbers(tags, _HEIGHT, 0)[0]
    planes = _numbers(tags, _CHANNELS, 1)[0] if _numbers(tags, _PLANAR, 1)[0] == 2 else 1
    if _TILES in tags:
        across, down = max(1, _numbers(tags, _TILE_WIDTH, width)[0]), max(1, _numbers(tags, _TILE_HEIGHT, height)[0])
        return planes * -(-width // across) * -(-height // down)
    return planes * -(-height // max(1, _numbers(tags, _STRIP_ROWS, height)[0]))


def _planes_are_read(tags: Any) -> bool:
    """Whether Pillow decodes channels that are stored one after another: of 8 bits, or by libtiff."""
    colours, channels = _numbers(tags, _PHOTOMETRIC, 0)[0], _numbers(tags, _CHANNELS, 1)[0]
    if _numbers(tags, _COMPRESSION, 1)[0] != 1:
        return channels == 1 or colours in (_RGB, _CMYK, _YCBCR)
    if _kind(tags)[0] != {8} or _numbers(tags, _FILL_ORDER, 1)[0] != 1:
        return False
    if channels == 1:
        return colours in (1, _PALETTE)
    return colours in (_RGB, _CMYK) and _PREMULTIPLIED not in _numbers(tags, _EXTRA, 0)


def _in_native_order(codec: str, box: Any, offset: int, arguments: Any) -> Any:
    if codec == "libtiff" and arguments[0] in _IN_NATIVE_ORDER:
        arguments = (_IN_NATIVE_ORDER[arguments[0]], *arguments[1:])
    tile = codec, box, offset, arguments
    # Versions of Pillow before 11 have plain tuples.
    return ImageFile._Tile(*tile) if hasattr(ImageFile, "_Tile") else tile


def _kind(tags: Any) -> tuple[set[int], set[int]]:
    """The bits and the formats of the channels."""
    return set(_numbers(tags, _BITS, 1)), set(_numbers(tags, _FORMAT, _UNSIGNED))


def _numbers(tags: Any, tag: int, default: int) -> tuple[int, ...]:
    value = tags.get(tag, default)
    return value if isinstance(value, tuple) else (value,)


def _first_tags(file: BinaryIO) -> Any:
    """The tags of the first image of a TIFF or BigTIFF file."""
    file.seek(0)
    header = file.read(8)
    if 43 in header[2:4]:
        header += file.read(8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(header)
    file.seek(tags.next)
    tags.load(file)
    return tags
