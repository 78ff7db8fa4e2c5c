"""A picture file is read whole, or refused in one line that says what it is; nothing else is started or printed."""

from __future__ import annotations

import io
import logging
import os
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, features

from lumina_core.errors import InputError
from lumina_core.pictures.images import load_picture
from lumina_core.pictures.reading import MAX_DECODED_BYTES

SIGNATURE = b"\x89PNG\r\n\x1a\n"
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (48, 40, 3), dtype=np.uint8)
FORMATS = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", *(["AVIF"] if features.check("avif") else [])]


def encoded(name: str, image: Image.Image | None = None, **options: object) -> bytes:
    """The file of a picture of noise, or of `image`."""
    file = io.BytesIO()
    (image or Image.fromarray(NOISE)).save(file, name, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, colour_type: int, bits: int, pixels: bytes, *extra: bytes) -> bytes:
    """A PNG file by hand, with extra chunks before the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    return b"".join([SIGNATURE, header, *extra, chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b"")])


def with_chunk(extra: bytes) -> bytes:
    """The noise as PNG with one more chunk after its header."""
    content = encoded("PNG")
    return content[:33] + extra + content[33:]


def refusal(path: Path) -> str:
    """The message of the refusal of a picture, one line."""
    with pytest.raises(InputError) as error:
        load_picture(path)
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    return message


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        (tmp_path / "picture.png").write_bytes(content)
        return tmp_path / "picture.png"

    return write


Write = Callable[[bytes], Path]


@pytest.mark.parametrize("name", FORMATS)
def test_formats_that_are_read(file: Write, name: str) -> None:
    picture = load_picture(file(encoded(name)))
    assert (picture.mode, picture.size) == ("RGB", (40, 48))
    assert picture.resize((4, 4)).size == (4, 4)


def test_eps_starts_no_other_program(file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ghostscript, mark = tmp_path / "gs", tmp_path / "started"
    ghostscript.write_text(f"#!/bin/sh\ntouch {mark}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", str(ghostscript))
    assert "EPS or PostScript" in refusal(file(encoded("EPS")))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(range(200)), "HEIC .* convert it to JPEG", id="heic"
        ),
        pytest.param(b"DDS |\0\0\0" + bytes(200), "a DDS picture: convert it to PNG", id="dds"),
        pytest.param(b"8BPS\0\1" + bytes(200), "a PSD picture: convert it to PNG", id="psd"),
        pytest.param(b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing", id="svg"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer", id="lfs"),
        pytest.param(b"<!DOCTYPE html><html></html>", "a web page", id="html"),
        pytest.param(b"%PDF-1.7", "a PDF file", id="pdf"),
        pytest.param(bytes(5000), "all zeros", id="zeros"),
        pytest.param(b"", "empty", id="empty"),
        pytest.param(SIGNATURE + b"\0" * 100, "begins as a PNG picture", id="broken header"),
        pytest.param(png(0, 4, 2, 8, b""), "begins as a PNG picture", id="no width"),
    ],
)
def test_what_is_no_picture_is_named(file: Write, content: bytes, expected: str) -> None:
    with pytest.raises(InputError, match=rf"cannot read the picture .*{expected}.*expected a whole PNG, JPEG"):
        load_picture(file(content))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "a pipe or a device" in refusal(tmp_path / "pipe.png")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("two\nlines"),
        IndexError("index"),
        NotImplementedError("flags"),
        zlib.error("data"),
        KeyError("tag"),
        OverflowError("large"),
        struct.error("unpack"),
        MemoryError(),
        RecursionError("deep"),
        AssertionError(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "byte"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("name", ["PNG", "BMP"])
def test_whatever_a_decoder_raises_is_one_line(
    file: Write, monkeypatch: pytest.MonkeyPatch, error: Exception, name: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    message = refusal(file(encoded(name)))
    assert ("memory ran out" if isinstance(error, MemoryError) else "broken or cut off") in message


@pytest.mark.parametrize("name", FORMATS)
def test_a_picture_cut_off_is_refused(file: Write, name: str) -> None:
    content = encoded(name)
    refusal(file(content[: len(content) // 2]))


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("GIF", "BMP", "TIFF", "PPM")])
def test_a_tail_of_zeros_is_refused(file: Write, name: str) -> None:
    """Pillow shows the rest of some of these as grey."""
    content = encoded(name)
    kept = content[: len(content) // 2].rstrip(b"\0")
    assert "zeros" in refusal(file(kept + bytes(len(content) - len(kept))))


def test_a_whole_thumbnail_does_not_hide_a_tail_of_zeros(file: Write) -> None:
    content = encoded("JPEG", exif=b"Exif\0\0" + encoded("JPEG"))
    assert "zeros" in refusal(file(content[:-1000] + bytes(1000)))


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
def test_zeros_after_the_end_are_padding(file: Write, name: str) -> None:
    assert load_picture(file(encoded(name) + bytes(4096))).size == (40, 48)


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(chunk(b"iCCP", b"name\0"), id="profile without a method"),
        pytest.param(chunk(b"iCCP", b"name\0\0no zlib"), id="broken profile"),
        pytest.param(chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(2**27))), id="oversized text"),
        pytest.param(chunk(b"tEXt", b"key\0text")[:-1] + b"\0", id="checksum of a text"),
        pytest.param(chunk(b"gAMA", b"\0"), id="short gamma"),
        pytest.param(chunk(b"acTL", b""), id="short animation"),
    ],
)
def test_broken_metadata_is_ignored_with_a_warning(file: Write, caplog: pytest.LogCaptureFixture, extra: bytes) -> None:
    """Pixels are those of the same file without it."""
    picture = load_picture(file(with_chunk(extra)))
    np.testing.assert_array_equal(np.asarray(picture), NOISE)


def test_ignoring_metadata_is_said(file: Write, caplog: pytest.LogCaptureFixture) -> None:
    load_picture(file(with_chunk(chunk(b"iCCP", b"name\0"))))
    assert "broken metadata is ignored" in caplog.text


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12"]
)
def test_broken_exif_does_not_matter(file: Write, exif: bytes) -> None:
    assert load_picture(file(encoded("JPEG", exif=exif))).size == (40, 48)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_put_upright(file: Write, orientation: int) -> None:
    """The corner that EXIF names comes to the upper left."""
    corners = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (-1, 0), 7: (-1, -1), 8: (0, -1)}
    pixels = np.zeros((8, 4, 3), dtype=np.uint8)
    pixels[corners[orientation]] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = np.asarray(load_picture(file(encoded("PNG", Image.fromarray(pixels), exif=exif))))
    assert picture.shape == ((8, 4, 3) if orientation < 5 else (4, 8, 3))
    assert picture[0, 0, 0] == 255


def test_the_first_of_several_frames(file: Write) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    picture = load_picture(file(encoded("GIF", frames[0], save_all=True, append_images=frames[1:])))
    assert picture.getpixel((0, 0)) == (255, 0, 0)


def test_too_large_a_picture_is_refused_by_its_header(file: Write) -> None:
    message = refusal(file(png(12_000, 12_000, 2, 8, b"")))
    assert f"12000x12000 pixels take 576 MB decoded; expected at most {MAX_DECODED_BYTES // 10**6} MB" in message
    assert "more than 134 megapixels" in refusal(file(png(40_000, 40_000, 2, 8, b"")))


def test_a_large_photo_is_read_without_a_warning(
    file: Write, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Pillow warns from MAX_IMAGE_PIXELS, 89 million, and refuses from twice that."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        load_picture(file(encoded("PNG")))
    assert not caplog.records


@pytest.mark.skipif(sys.platform == "win32", reason="needs file descriptors as on Unix")
def test_decoders_print_nothing(file: Write, capfd: pytest.CaptureFixture[str]) -> None:
    """libtiff prints its errors itself; they are part of the message."""
    content = bytearray(encoded("TIFF", compression="tiff_adobe_deflate"))
    content[20:40] = b"\xff" * 20
    assert "Decod" in refusal(file(bytes(content)))
    assert capfd.readouterr() == ("", "")


MEASURE = """
import resource, sys
from lumina_core.pictures.images import load_picture
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
load_picture(sys.argv[1])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs the module resource")
def test_alpha_takes_less_than_three_times_the_picture(file: Write) -> None:
    path = file(encoded("PNG", Image.new("RGBA", (4000, 4000), (10, 20, 30, 128))))
    run = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 3 * 4 * 4000 * 4000
