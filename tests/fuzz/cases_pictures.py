"""Cases: pictures as conditions, and their formats, ranges and bounds."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from ..core.tiff_files import tiff
from .attempts import MIB, Attempt, Expected, Make, alike_or_refused, case, drawn, either, refused, same
from .cases_downloads import HEIC
from .place import Arguments, Place, make_picture

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n(" + b"x" * 200 + b") run\nshowpage\n%%EOF\n"
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="32" height="32"><rect width="9"/></svg>'
PDF = b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n%%EOF\n"
SIDE = 32


def _saved(
    what: str, save: Callable[[Path], object], name: str, expected: Expected, most_bytes: int = 512 * MIB
) -> Attempt:
    """A file that `save` writes, as a depth map."""

    def make(place: Place) -> Arguments:
        save(place.inputs / name)
        return place.control(place.inputs / name)

    return case(what, make, expected, most_bytes=most_bytes)


def _bytes(what: str, content: bytes, name: str, expected: Expected) -> Attempt:
    return _saved(what, lambda path: path.write_bytes(content), name, expected)


def ramp() -> np.ndarray:
    """Depths from 0 to 1."""
    x, y = np.meshgrid(np.linspace(0, 1, SIDE), np.linspace(0, 1, SIDE))
    return (x + y) / 2


def eight_bit_map(name: str) -> Make:
    """The same depths as 8-bit grey."""

    def make(place: Place) -> Arguments:
        Image.fromarray((ramp() * 255).astype(np.uint8)).save(place.inputs / name)
        return place.control(place.inputs / name)

    return make


def as_depth(name: str) -> Expected:
    """As the 8-bit map, but for roundings; or a question."""
    return alike_or_refused(0.9, eight_bit_map(name), "range|scale|values|8.bit|8 bit")


def _map(what: str, values: np.ndarray, name: str, expected: Expected | None = None) -> Attempt:
    return _saved(what, lambda path: Image.fromarray(values).save(path), name, expected or as_depth(name))


def _mode(mode: str, name: str, **options: object) -> Attempt:
    return _saved(
        f"a picture in {mode} as {name}",
        lambda path: make_picture((SIDE, SIDE), mode).save(path, **options),
        name,
        drawn(),
    )


def _cut(name: str, share: float = 0.5) -> Attempt:
    def save(path: Path) -> None:
        make_picture((64, 64)).save(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return _saved(f"{name} cut off at {share:.0%}", save, name, refused("cannot read|cut|damaged|truncated"))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, colour: int, row_bytes: int) -> bytes:
    """A PNG of zeros of any size in little space; `colour` 0 is grey, 2 RGB, 6 RGBA."""
    pack = zlib.compressobj(9)
    rows = b"".join(pack.compress(b"\0" * (1 + row_bytes)) for _ in range(height)) + pack.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _says(side: int, path: Path) -> None:
    """A PNG that says it has that many pixels a side and holds one."""
    content = png(1, 1, 2, 3)
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(content[:8] + chunk(b"IHDR", header) + content[33:])


def _text_bomb(path: Path) -> None:
    """A PNG with 64 MB of text in some 64 KB."""
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 64_000_000, zip=True)
    make_picture((SIDE, SIDE)).save(path, pnginfo=info)


def _transparent_colour(path: Path) -> None:
    picture = make_picture((SIDE, SIDE))
    picture.paste((10, 20, 30), (0, 0, SIDE, SIDE // 2))
    picture.save(path, transparency=(10, 20, 30))


def _blended(place: Place) -> Arguments:
    """The same picture with white where its transparent colour is."""
    picture = make_picture((SIDE, SIDE))
    picture.paste((255, 255, 255), (0, 0, SIDE, SIDE // 2))
    picture.save(place.inputs / "p.png")
    return place.encode(place.inputs / "p.png")


def _encoded_transparent(place: Place) -> Arguments:
    _transparent_colour(place.inputs / "p.png")
    return place.encode(place.inputs / "p.png")


def _turned(place: Place) -> Arguments:
    picture = make_picture((SIDE, 2 * SIDE))
    exif = picture.getexif()
    exif[0x0112] = 3
    picture.transpose(Image.Transpose.ROTATE_180).save(place.inputs / "p.png", exif=exif)
    return place.encode(place.inputs / "p.png")


def _upright(place: Place) -> Arguments:
    make_picture((SIDE, 2 * SIDE)).save(place.inputs / "p.png")
    return place.encode(place.inputs / "p.png")


def _place_of(what: str, choose: Callable[[Place], Path], *words: str) -> Attempt:
    return case(what, lambda place: place.control(choose(place)), refused(*words))


def _fifo(place: Place) -> Path:
    os.mkfifo(place.inputs / "pipe.png")
    return place.inputs / "pipe.png"


def _loop(place: Place) -> Path:
    (place.inputs / "loop.png").symlink_to("loop.png")
    return place.inputs / "loop.png"


def _animation(path: Path) -> None:
    frames = [Image.new("P", (SIDE, SIDE), colour) for colour in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def _plain_colour(value: int) -> Callable[[Path], None]:
    return lambda path: Image.new("RGB", (SIDE, SIDE), (value,) * 3).save(path)


def _grey16(values: np.ndarray) -> np.ndarray:
    return values.astype(np.uint16)


def _png_bytes(**options: object) -> bytes:
    buffer = io.BytesIO()
    make_picture((SIDE, SIDE)).save(buffer, "PNG", **options)
    return buffer.getvalue()


def _long_name(place: Place) -> Path:
    return place.inputs / ("x" * 300 + ".png")


RAMP = ramp()
# Drawn as it is, with a line in the log, or refused.
DARK = Expected(True, True, ("range|scale|values",), ("dark|range|scale",))
WITH_NAN = np.where(RAMP > 0.9, np.nan, RAMP).astype(np.float32)


def _png(rows: int, bits: int = 8, colours: int = 2, interlaced: int = 0) -> bytes:
    """A PNG of 32x32 whose compressed data end as they should, after some of its rows."""
    row = b"\0" + b"\x40" * (SIDE * bits * {0: 1, 2: 3}[colours] // 8)
    size = struct.pack(">IIBBBBB", SIDE, SIDE, bits, colours, 0, 0, interlaced)
    chunks = (b"IHDR" + size, b"IDAT" + zlib.compress(row * rows), b"IEND")
    packed = (struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def _tiff_without_strip(path: Path) -> None:
    """Half of the rows are in a strip that the file does not list."""
    pixels = (ramp() * 255).astype(np.uint8)
    path.write_bytes(tiff(pixels, tags={278: SIDE // 2, 279: pixels.size // 2}))


CASES: tuple[Attempt, ...] = (
    *(
        _bytes(f"a PNG of {rows} of 32 rows, {bits} bit", _png(rows, bits, colours), "p.png", refused("missing|early"))
        for rows, bits, colours in ((4, 8, 2), (31, 8, 2), (16, 16, 0), (31, 1, 0))
    ),
    _bytes("a PNG of all rows", _png(SIDE), "p.png", drawn()),
    _bytes("an interlaced PNG of half its bytes", _png(16, interlaced=1), "p.png", refused("missing|early")),
    _saved("a TIFF that lacks a strip", _tiff_without_strip, "p.tif", refused("1 of 2 strips")),
    _bytes("an EPS named .png", EPS, "p.png", refused("EPS|PostScript")),
    _bytes("an EPS", EPS, "p.eps", refused("EPS|PostScript")),
    _bytes(
        "an EPS with a DOS header",
        b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 30, len(EPS)) + b"\0" * 18 + EPS,
        "p.png",
        refused("EPS|PostScript"),
    ),
    _bytes("a HEIC photo named .png", HEIC, "p.png", refused("HEIC", "JPEG|PNG|convert")),
    _bytes("an SVG", SVG, "p.svg", refused("SVG|web page|text|XML|p.svg")),
    _bytes("a PDF", PDF, "p.pdf", refused("PDF")),
    _bytes("a text named .png", b"no picture\n", "p.png", refused("text|picture")),
    _saved("a DDS", lambda path: make_picture((SIDE, SIDE)).save(path), "p.dds", refused("PNG|format|picture")),
    _saved("an ICO", lambda path: make_picture((SIDE, SIDE)).save(path), "p.ico", either("PNG|format|picture")),
    _saved("a TGA", lambda path: make_picture((SIDE, SIDE)).save(path), "p.tga", either("PNG|format|picture")),
    *(_mode("RGB", f"p.{suffix}") for suffix in ("png", "jpg", "webp", "bmp", "tif")),
    _mode("CMYK", "p.jpg"),
    _mode("L", "p.png"),
    _mode("1", "p.png"),
    _mode("P", "p.png"),
    _mode("LA", "p.png"),
    _mode("RGBA", "p.png"),
    _mode("RGBA", "p.webp", lossless=True),
    _mode("LAB", "p.tif"),
    _saved("an animation", _animation, "p.gif", either("GIF|picture")),
    _map("depth as float from 0 to 1", RAMP.astype(np.float32), "p.tif"),
    _map("depth in metres", (RAMP * 8).astype(np.float32), "p.tif"),
    _map("depth of 12 bits in 16", _grey16(RAMP * 4095), "p.png"),
    _map("depth of 8 bits in 16", _grey16(RAMP * 255), "p.png"),
    _map("depth of 16 bits", _grey16(RAMP * 65535), "p.png"),
    _map("depth of 32 bits", (RAMP * (2**31 - 1)).astype(np.int32), "p.tif"),
    _map("depth in millimetres in 32 bits", (RAMP * 9000).astype(np.int32), "p.tif", DARK),
    _saved(
        "depth with NaN", lambda path: Image.fromarray(WITH_NAN).save(path), "p.tif", either("NaN|finite|range|values")
    ),
    _saved("a map all black", _plain_colour(0), "p.png", drawn("black")),
    _saved("a map all white", _plain_colour(255), "p.png", drawn("white")),
    _saved(
        "a map all black in 16 bits",
        lambda path: Image.fromarray(_grey16(RAMP * 0)).save(path),
        "p.png",
        Expected(True, True, ("black",), ("black",)),
    ),
    case("a transparent colour of RGB", _encoded_transparent, same(reference=_blended)),
    case("a picture turned by its EXIF", _turned, same(reference=_upright)),
    *(_cut(name) for name in ("p.png", "p.jpg", "p.webp", "p.bmp", "p.tif", "p.gif")),
    _cut("p.jpg", 0.95),
    _cut("p.png", 0.02),
    _saved(
        "a picture that says 20,000 pixels a side",
        lambda path: _says(20_000, path),
        "p.png",
        refused("large|pixels|bytes"),
    ),
    _saved(
        "a picture that says 2^31 - 1 pixels a side",
        lambda path: _says(2**31 - 1, path),
        "p.png",
        refused("large|pixels|bytes"),
    ),
    _saved(
        "RGBA of 9,400 pixels a side",
        lambda path: path.write_bytes(png(9400, 9400, 6, 37_600)),
        "p.png",
        either("large|pixels|bytes"),
        1600 * MIB,
    ),
    _saved(
        "RGB of 60,000 by 100 pixels",
        lambda path: path.write_bytes(png(60_000, 100, 2, 180_000)),
        "p.png",
        either("large|pixels|bytes"),
    ),
    _saved("a picture with 64 MB of text", _text_bomb, "p.png", either("text|large|read")),
    _saved("one pixel", lambda path: make_picture((1, 1)).save(path), "p.png", either("pixel")),
    _bytes("a PNG with bytes after its end", _png_bytes() + b"\0" * 1000, "p.png", drawn()),
    _bytes(
        "a PNG with a wrong checksum",
        _png_bytes()[:-20] + b"\xff" * 4 + _png_bytes()[-16:],
        "p.png",
        either("read|damaged|checksum"),
    ),
    _place_of("a folder as picture", lambda place: place.inputs, "folder"),
    _place_of("a pipe as picture", _fifo, "pipe"),
    _place_of("a link to itself as picture", _loop, "loop"),
    _place_of("an endless device as picture", lambda place: Path("/dev/zero"), "device"),
    _place_of("random numbers as picture", lambda place: Path("/dev/urandom"), "device"),
    _place_of("no picture", lambda place: place.inputs / "absent.png", "missing|no such|not exist"),
    _place_of("a name with NUL as picture", lambda place: Path("a\0b.png"), "null|NUL|character|no path"),
    _place_of("a name of 300 characters as picture", _long_name, "long"),
)
