"""Reading a picture file: few formats, a bound on its pixels, upright, and one error for whatever is wrong with it."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from ..errors import InputError
from ..files.kind import FileKind, look_at
from ..files.native_stderr import native_stderr
from ..host.refusals import is_out_of_memory
from .levels import CHANNELS_TO
from .png import SIGNATURE, missing_bytes, png_chunks
from .sizes import size_text
from .tiff import describe_tiff, prepare_tiff
from .zero_tail import TAIL, zeros_in_place_of_pixels

logger = logging.getLogger(__name__)

# Formats whose decoders start no other program. JPEG includes phones' MPO.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")
EXPECTED = "a whole PNG, JPEG, WebP, GIF, BMP, TIFF or PPM picture"
# Formats that are named, so that the message says what to convert.
_KNOWN = ("DDS", "PSD", "JPEG2000", "ICO", "QOI", "ICNS")
PIXEL_BYTES = 4
MAX_DECODED_BYTES = 2**29
_MAX_MEGAPIXELS = MAX_DECODED_BYTES // PIXEL_BYTES // 1_000_000
_SUFFIX_OF_16_BITS, _GREY_STEPS = ";16", {"L;2": 85, "L;4": 17}
# What Pillow and libtiff say of a compression that they were built without.
_NOT_BUILT_IN = ("not configured", "not available")
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"IEND")
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_picture(path: Path) -> Image.Image:
    """The decoded picture of a file in its own mode, turned upright; of several frames the first.

    Raises InputError for anything but a regular file that holds a whole picture of one of `FORMATS` and of at most
    `MAX_DECODED_BYTES` at 4 bytes a pixel. Broken metadata is ignored, with a warning in the log.
    """
    try:
        kind = look_at(path, InputError, EXPECTED)
        if kind.name == "raw":  # some begin as a TIFF picture, with a preview
            raise InputError(f"the file is {kind}; expected {EXPECTED}")
        with path.open("rb") as file, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            image = _upright(_decode(file, path, kind), path)
    except InputError as error:
        raise InputError(f"cannot read the picture {path}: {error}") from error
    said = [str(one.message) for one in caught if one.category is not Image.DecompressionBombWarning]
    for message in dict.fromkeys(said):
        logger.warning("%s: %s", path, " ".join(message.split()))
    return image


def decoder_error(error: Exception) -> str:
    """What an exception of a decoder means, in one line."""
    if is_out_of_memory(error):
        return "memory ran out while it was decoded: make it smaller first, or close other programs"
    return f"it is broken or cut off ({' '.join(str(error).split()) or type(error).__name__})"


def _decode(file: BinaryIO, path: Path, kind: FileKind) -> Image.Image:
    """The picture, if need be without its metadata. Raises InputError, whatever Pillow raised."""
    try:
        return _load(file, path)
    except InputError:
        raise
    except Exception as error:  # decoders raise anything: RuntimeError, IndexError, NotImplementedError, ...
        plain = None if is_out_of_memory(error) else _without_metadata(file)
        reason = _reason(error, file, kind)
    try:
        if plain is not None:
            image = _load(plain, path)
            logger.warning("%s: broken metadata is ignored", path)
            return image
    except InputError:
        raise
    except Exception as error:
        reason = _reason(error, file, kind)
    raise InputError(f"{reason}; expected {EXPECTED}")


def note_depth(image: Image.Image, name: str) -> None:
    """Notes in `image.info`, before a picture is decoded, what decoding loses; raises InputError as `prepare_tiff`."""
    prepare_tiff(image, name)
    arguments = image.tile[0][3] if isinstance(image, ImageFile.ImageFile) and image.tile else None
    mode, *rest = arguments if isinstance(arguments, tuple | list) else (arguments,)
    if image.format in ("PNG", "TIFF") and _SUFFIX_OF_16_BITS in str(mode):
        image.info[CHANNELS_TO] = 65535
    if image.format == "PPM" and mode == "RGB" and rest and rest[0] > 255:
        image.info[CHANNELS_TO] = rest[0]


def _load(file: BinaryIO, path: Path) -> Image.Image:
    """The loaded picture. Raises InputError for one that is too large, lacks its end or is misread, else as Pillow."""
    Image.init()
    file.seek(0)
    image = Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
    _check_pixels(image)
    _check_end(file, image.format or "")
    _scale_transparent_colour(image)
    note_depth(image, f"the picture {path}")
    if image.format != "TIFF":
        image.load()
        return image
    try:
        with native_stderr() as lines:
            image.load()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise OSError("; ".join([str(error), *lines])) from error
    for line in lines:
        logger.warning("%s", line)
    return image


def _check_pixels(image: Image.Image) -> None:
    if 0 in image.size:
        raise InputError(f"it is {size_text(image.size)}; expected at least 1x1 pixels")
    decoded = PIXEL_BYTES * image.width * image.height
    if decoded > MAX_DECODED_BYTES:
        raise InputError(
            f"its {size_text(image.size)} pixels take {decoded // 10**6} MB decoded; expected at most "
            f"{MAX_DECODED_BYTES // 10**6} MB ({_MAX_MEGAPIXELS} megapixels): make it smaller first"
        )


def _check_end(file: BinaryIO, name: str) -> None:
    """Raises InputError for a picture whose last pixels are missing, or zeros, where decoders say nothing."""
    position = file.tell()
    if name == "PNG" and (missing := missing_bytes(file)):
        raise InputError(f"it ends too early: {missing} bytes of its pixels are missing; expected {EXPECTED}")
    file.seek(max(0, file.seek(0, io.SEEK_END) - TAIL))
    if not file.read().strip(b"\0"):
        file.seek(0)
        if zeros := zeros_in_place_of_pixels(file.read(), name):
            raise InputError(f"its last {zeros} bytes are zeros: the download never finished; download it again")
    file.seek(position)


def _scale_transparent_colour(image: ImageFile.ImageFile) -> None:
    """Brings the transparent colour of a PNG to the 8 bits that Pillow decodes colours and few levels of grey to."""
    colour, raw_mode = image.info.get("transparency"), str(image.tile[0][3]) if image.tile else ""
    if isinstance(colour, tuple) and _SUFFIX_OF_16_BITS in raw_mode:
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    if isinstance(colour, int) and raw_mode in _GREY_STEPS:
        image.info["transparency"] = min(255, colour * _GREY_STEPS[raw_mode])


def _upright(image: Image.Image, path: Path) -> Image.Image:
    """The picture turned as its EXIF data say."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:  # broken EXIF data raise anything
        if is_out_of_memory(error):
            raise
        logger.warning("%s: broken EXIF data are ignored: %s", path, error)
        return image
    method = _TRANSPOSE.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _reason(error: Exception, file: BinaryIO, kind: FileKind) -> str:
    """Why a file is not read: what it is, or what its decoder said."""
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {_MAX_MEGAPIXELS} megapixels ({error}): make it smaller first"
    is_identified = not isinstance(error, UnidentifiedImageError)
    if is_identified and not any(words in str(error) for words in _NOT_BUILT_IN):
        return decoder_error(error)
    file.seek(0)
    first = file.read(4096)
    name = _format_name(first)
    if name == "TIFF" and (described := describe_tiff(file)):
        return described
    if is_identified:
        return decoder_error(error)
    if name in FORMATS:
        return f"it begins as a {name} picture, and is broken or of a variant that is not read"
    if name is not None:
        return f"the file is a {name} picture: convert it to PNG"
    if b"<svg" in first:
        return "the file is an SVG drawing: convert it to PNG"
    return f"the file is {kind}"


def _format_name(first: bytes) -> str | None:
    """Pillow's name of the format that the bytes begin with, if it is one of those that are read or named."""
    for name in FORMATS + _KNOWN:
        accept = Image.OPEN[name][1] if name in Image.OPEN else None
        if accept is not None and accept(first[:16]) is True:
            return name
    return None


def _without_metadata(file: BinaryIO) -> io.BytesIO | None:
    """A PNG file with the chunks that make its pixels only; None for any other file."""
    file.seek(0)
    if file.read(8) != SIGNATURE:
        return None
    plain = io.BytesIO()
    plain.write(SIGNATURE)
    for name, chunk in png_chunks(file):
        if name in _PNG_CHUNKS:
            plain.write(chunk)
    plain.seek(0)
    return plain
