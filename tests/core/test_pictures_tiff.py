"""A TIFF picture keeps its values, or is refused in one line that says which variant it is and what to do."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lumina_core.errors import InputError
from lumina_core.pictures.images import load_picture, to_rgb

from .tiff_files import DEFLATE, RAW, tiff

LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOURS = np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)
Write = Callable[[bytes], Path]


@pytest.fixture
def file(tmp_path: Path) -> Write:
    def write(content: bytes) -> Path:
        (tmp_path / "picture.tif").write_bytes(content)
        return tmp_path / "picture.tif"

    return write


def greys(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(load_picture(path))[..., 0]


def refusal(path: Path) -> str:
    """The message of the refusal, one line."""
    with pytest.raises(InputError) as error:
        load_picture(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def read_or_refused(path: Path) -> np.ndarray[Any, Any] | str:
    """The pixels, or the message of the refusal."""
    try:
        return np.asarray(load_picture(path))
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("compression", [RAW, DEFLATE])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4", "f4"])
def test_grey_keeps_its_values(file: Write, dtype: str, order: str, compression: int) -> None:
    """Pillow swaps the bytes of compressed big-endian values of a sign or a fraction."""
    values = LEVELS / np.float32(255) if dtype == "f4" else LEVELS.astype(dtype) * (257 if dtype in ("u2", "i4") else 1)
    np.testing.assert_array_equal(greys(file(tiff(values.astype(dtype), order, compression=compression))), LEVELS)


@pytest.mark.parametrize("compression", [RAW, DEFLATE])
@pytest.mark.parametrize(
    "values",
    [
        pytest.param(LEVELS, id="8 bits"),
        pytest.param(LEVELS.astype(np.uint16) * 257, id="16 bits"),
        pytest.param(LEVELS.astype(np.uint16), id="8 bits in 16"),
        pytest.param((LEVELS / 255).astype(np.float32), id="floats"),
    ],
)
def test_grey_whose_white_is_zero(file: Write, values: np.ndarray[Any, Any], compression: int) -> None:
    path = file(tiff(values, tags={262: 0}, compression=compression))
    np.testing.assert_array_equal(greys(path), 255 - LEVELS)
    with Image.open(path) as opened:
        np.testing.assert_array_equal(np.asarray(to_rgb(opened))[..., 0], 255 - LEVELS)


def test_white_is_zero_in_a_turned_picture(file: Write) -> None:
    path = file(tiff(LEVELS.astype(np.uint16) * 257, tags={262: 0, 274: 3}))
    np.testing.assert_array_equal(greys(path), 255 - LEVELS[::-1, ::-1])


@pytest.mark.parametrize("values", [LEVELS, LEVELS.astype(np.uint16) * 257], ids=["8 bits", "16 bits"])
def test_grey_that_does_not_say_its_white(
    file: Write, caplog: pytest.LogCaptureFixture, values: np.ndarray[Any, Any]
) -> None:
    np.testing.assert_array_equal(greys(file(tiff(values, tags={262: None}))), 255 - LEVELS)
    assert caplog.text.count("does not say whether 0 is black or white: read as white") == 1


@pytest.mark.parametrize("compression", [RAW, DEFLATE])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("channels", "tags"),
    [(1, {}), (1, {262: 0}), (2, {338: 2}), (3, {}), (4, {338: 2}), (4, {338: 1}), (4, {262: 5}), (3, {262: 8})],
    ids=["grey", "white 0", "grey and alpha", "RGB", "RGBA", "premultiplied", "CMYK", "Lab"],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_channels_in_planes_are_those_of_pixels_or_refused(
    file: Write, channels: int, tags: dict[int, Any], dtype: type, planar: int, compression: int, order: str
) -> None:
    values = COLOURS[..., :channels].astype(dtype) * (257 if dtype is np.uint16 else 1)
    of_pixels = read_or_refused(file(tiff(values, order, tags=tags)))
    of_planes = read_or_refused(file(tiff(values, order, tags, compression, planar)))
    is_refused = isinstance(of_planes, str)
    assert ("PNG of 8 or 16 bits" in of_planes) if is_refused else np.array_equal(of_pixels, of_planes)


@pytest.mark.parametrize(("channels", "tags"), [(3, {}), (4, {262: 5})], ids=["RGB", "CMYK"])
def test_sixteen_bits_in_planes_are_refused(file: Write, channels: int, tags: dict[int, Any]) -> None:
    path = file(tiff(COLOURS[..., :channels].astype(np.uint16), tags=tags, planar=2))
    assert "PlanarConfiguration 2), which is not read here: save it as a PNG of 8 or 16 bits" in refusal(path)
    with Image.open(path) as opened, pytest.raises(InputError, match="cannot read the picture: its channels"):
        to_rgb(opened)


def test_subsampled_colours_without_compression_are_refused(file: Write) -> None:
    assert "subsampled YCbCr" in refusal(file(tiff(COLOURS[..., :3], tags={262: 6, 530: (2, 2)})))


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({254: 1}, "its first image is a thumbnail"),
        ({255: 2}, "its first image is a thumbnail, as in raw photos: convert it"),
        ({50706: (1, 4, 0, 0)}, r"it is a raw photo \(DNG\), of which only a preview could be read: convert it"),
    ],
)
def test_the_preview_of_a_raw_photo_is_refused(file: Write, tags: dict[int, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        load_picture(file(tiff(COLOURS[..., :3], tags=tags)))


def test_a_page_of_several_is_read(file: Write) -> None:
    """Scanners mark pages with bit 1 of NewSubfileType."""
    np.testing.assert_array_equal(greys(file(tiff(LEVELS, tags={254: 2}))), LEVELS)


def test_a_raw_photo_that_begins_as_a_tiff_picture(file: Write) -> None:
    assert "a raw photo of a camera: convert it" in refusal(file(b"II*\0\x10\0\0\0CR\2\0" + bytes(100)))


def test_signed_bytes_are_refused(file: Write) -> None:
    assert "signed 8-bit numbers, from -128 to 127" in refusal(file(tiff(LEVELS.astype(np.int8))))


def test_large_numbers_without_a_sign_keep_their_range(file: Write) -> None:
    path = file(tiff(np.array([[0, 4_000_000_000]], dtype=np.uint32)))
    assert "values from 0 to 4e+09; expected whole numbers from 0 to 65535" in refusal(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(tiff(LEVELS / 255), "a TIFF picture of 64-bit floats, grey, a variant", id="float64"),
        pytest.param(tiff((LEVELS / 255).astype(np.float16)), "of 16-bit floats, grey", id="float16"),
        pytest.param(
            tiff(COLOURS[..., :3].astype(np.float32)), "of 32-bit floats, RGB, 3 channels", id="floats in channels"
        ),
        pytest.param(tiff(COLOURS[..., :3].astype(np.int16)), "of 16-bit signed integers, RGB", id="signs in channels"),
        pytest.param(tiff(LEVELS.astype(np.uint32), ">"), "of 32-bit unsigned integers, grey", id="big-endian"),
        pytest.param(tiff(COLOURS[..., :2].astype(np.uint16)), "of 16-bit unsigned integers, grey, 2 channels", id="2"),
        pytest.param(tiff(LEVELS, tags={262: 32803}), "raw sensor values", id="sensor"),
        pytest.param(
            tiff(LEVELS, tags={259: 34887}), r"compression 34887 \(a kind that is not known\)", id="compression"
        ),
    ],
)
def test_a_variant_that_is_not_read_is_named(file: Write, content: bytes, expected: str) -> None:
    with pytest.raises(InputError, match=rf"it is .*{expected}.*not read: save it as a PNG of 8 or 16 bits"):
        load_picture(file(content))


def test_broken_tags_are_no_variant(file: Write) -> None:
    assert "begins as a TIFF picture, and is broken" in refusal(file(tiff(LEVELS / 255)[:-150]))


def test_half_a_picture_is_no_variant(file: Write) -> None:
    content = io.BytesIO()
    Image.fromarray(COLOURS).save(content, "TIFF", compression="tiff_lzw")
    damaged = bytearray(content.getvalue())
    damaged[8:40] = b"\xff" * 32
    assert "broken or cut off" in refusal(file(bytes(damaged)))


def test_a_whole_map_is_read_without_a_warning(file: Write, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        load_picture(file(tiff(LEVELS.astype(np.uint16) * 257, tags={262: 0})))
    assert not caplog.records
