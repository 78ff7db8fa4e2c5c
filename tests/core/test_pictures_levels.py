"""Every mode of Pillow becomes RGB: alpha on white, deep grey scaled by a rule that is logged, never black unsaid."""

from __future__ import annotations

import logging
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lumina_core.errors import InputError
from lumina_core.pictures.images import load_picture, to_rgb
from lumina_core.pictures.panels import condition_panel, condition_pixels

from .test_pictures import chunk, encoded, png

LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16)


def greys(image: Image.Image) -> np.ndarray[Any, Any]:
    """The levels of a picture that must be grey."""
    colours = np.asarray(to_rgb(image))
    assert (colours == colours[..., :1]).all()
    return colours[..., 0]


def load(path: Path, content: bytes) -> np.ndarray[Any, Any]:
    path.write_bytes(content)
    return np.asarray(load_picture(path))


def test_alpha_is_blended_as_published() -> None:
    """floor(255 (1 - a) + a c), of every colour and alpha, in float64 as the published program."""
    colour, alpha = (plane.astype(np.uint8) for plane in np.meshgrid(np.arange(256), np.arange(256)))
    picture = Image.fromarray(np.stack([colour, colour, colour, alpha], -1))
    share = alpha / 255.0
    np.testing.assert_array_equal(greys(picture), ((1 - share) * 255 + share * colour).astype(np.uint8))


def test_alpha_beyond_one_tile() -> None:
    picture = Image.new("RGBA", (1030, 1030), (0, 0, 0, 0))
    picture.paste((10, 20, 30, 255), (1026, 1026, 1030, 1030))
    colours = np.asarray(to_rgb(picture))
    assert colours[1025, 1025].tolist() == [255, 255, 255] and colours[1026, 1029].tolist() == [10, 20, 30]


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
def test_modes_with_alpha_are_blended(mode: str) -> None:
    premultiplied = mode in ("La", "RGBa")
    picture = Image.new(mode.upper(), (2, 2)).convert(mode) if premultiplied else Image.new(mode, (2, 2))
    assert to_rgb(picture).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "LAB"])
def test_colour_spaces_are_converted(mode: str) -> None:
    source = Image.new("RGB", (2, 2), (200, 30, 60))
    if mode == "LAB":
        cms = pytest.importorskip("PIL.ImageCms")
        picture = cms.profileToProfile(source, cms.createProfile("sRGB"), cms.createProfile("LAB"), outputMode="LAB")
    else:
        picture = source.convert(mode)
    assert np.abs(np.asarray(to_rgb(picture)).astype(int) - np.asarray(source)).max() <= 4


def test_a_palette_with_several_alphas() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([0, 0, 0, 0, 0, 0])
    picture.putpixel((1, 0), 1)
    picture.info["transparency"] = b"\x00\xff"
    assert greys(picture).tolist() == [[255, 0]]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(png(2, 1, 0, 8, b"\0\x07\x08", chunk(b"tRNS", b"\0\x07")), [255, 8], id="grey"),
        pytest.param(png(4, 1, 0, 2, b"\0\xe4", chunk(b"tRNS", b"\0\x01")), [255, 170, 255, 0], id="grey of 2 bits"),
        pytest.param(png(2, 1, 0, 1, b"\0\x40", chunk(b"tRNS", b"\0\x00")), [255, 255], id="grey of 1 bit"),
        pytest.param(
            png(2, 1, 0, 16, struct.pack(">xHH", 257, 514 * 100), chunk(b"tRNS", struct.pack(">H", 257))),
            [255, 200],
            id="grey of 16 bits",
        ),
        pytest.param(png(2, 1, 2, 8, b"\0\1\1\1\2\2\2", chunk(b"tRNS", b"\0\1\0\1\0\1")), [255, 2], id="RGB"),
        pytest.param(
            png(2, 1, 2, 16, b"\0" + b"\1\0" * 3 + b"\2\0" * 3, chunk(b"tRNS", b"\1\0" * 3)),
            [255, 2],
            id="RGB of 16 bits",
        ),
        pytest.param(
            png(2, 1, 3, 8, b"\0\0\1", chunk(b"PLTE", b"\1\1\1\2\2\2"), chunk(b"tRNS", b"\0")), [255, 2], id="palette"
        ),
    ],
)
def test_a_transparent_colour_is_white(tmp_path: Path, content: bytes, expected: list[int]) -> None:
    assert load(tmp_path / "t.png", content)[0, :, 0].tolist() == expected


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_that_use_the_range_are_divided_by_257(order: str, caplog: pytest.LogCaptureFixture) -> None:
    values = np.arange(65536).reshape(256, 256)
    mode = "I;16" if order == "<" else "I;16B"
    picture = Image.frombytes(mode, (256, 256), values.astype(f"{order}u2").tobytes())
    with caplog.at_level(logging.INFO):
        np.testing.assert_array_equal(greys(picture), values // 257)
    assert not caplog.records


@pytest.mark.parametrize(
    ("values", "said"),
    [
        pytest.param(LEVELS.astype(np.uint16), "values from 0 to 255: read with 255 as white", id="8 bits in 16"),
        pytest.param(LEVELS.astype(np.int32), "read with 255 as white", id="8 bits in 32"),
        pytest.param(LEVELS.astype(np.float32), "read with 255 as white", id="8 bits as float"),
        pytest.param((LEVELS * 257.0).astype(np.int32), "", id="16 bits in 32"),
        pytest.param((LEVELS * (4095 / 255)).round().astype(np.uint16), "read with 4095 as white", id="12 bits"),
        pytest.param((LEVELS / 255).astype(np.float32), "values from 0 to 1: scaled from 0 to 1", id="float"),
        pytest.param((LEVELS / 255 * 1.001).astype(np.float32), "scaled from 0 to 1", id="float that overshoots"),
    ],
)
@pytest.mark.parametrize("suffix", ["tif", "memory"])
def test_values_of_another_range_keep_their_levels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, values: np.ndarray[Any, Any], said: str, suffix: str
) -> None:
    picture = Image.fromarray(values)
    with caplog.at_level(logging.INFO):
        levels = greys(picture) if suffix == "memory" else load(tmp_path / "p.tif", encoded("TIFF", picture))[..., 0]
    np.testing.assert_array_equal(levels, LEVELS)
    assert said in caplog.text and len(caplog.records) == bool(said)


def test_a_mask_of_zeros_and_ones_is_black_and_white() -> None:
    mask = (LEVELS % 2).astype(np.uint16)
    np.testing.assert_array_equal(greys(Image.fromarray(mask)), mask * 255)


def test_a_dark_map_of_sixteen_bits_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """A depth in millimetres looks like this."""
    to_rgb(Image.fromarray(np.linspace(500, 8000, 256).reshape(16, 16).astype(np.uint16)))
    assert "values from 500 to 8000 of 65535: it is dark" in caplog.text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param(
            np.linspace(0.5, 80.25, 4), "values from 0.5 to 80.25; expected 0 to 1.*make near white", id="metres"
        ),
        pytest.param(np.linspace(0.3, 1.7, 4), "values from 0.3 to 1.7", id="metres near by"),
        pytest.param(np.linspace(-1, 1, 4), "values from -1 to 1", id="negative"),
        pytest.param(np.array([0, 0.5, np.nan, np.inf]), "2 values that are NaN or infinite, of 4", id="not finite"),
        pytest.param(np.array([0, 300, 65535, 70000]), "values from 0 to 70000", id="large"),
    ],
)
def test_floats_that_say_no_range_are_refused(tmp_path: Path, values: np.ndarray[Any, Any], expected: str) -> None:
    picture = Image.fromarray(values.astype(np.float32).reshape(2, 2))
    (tmp_path / "map.tif").write_bytes(encoded("TIFF", picture))
    with pytest.raises(InputError, match=rf"map\.tif holds {expected}"):
        load_picture(tmp_path / "map.tif")


@pytest.mark.parametrize("values", [[-1, 5], [0, 65536]])
def test_whole_numbers_beyond_sixteen_bits_are_refused(values: list[int]) -> None:
    with pytest.raises(
        InputError, match=rf"values from {values[0]} to {values[1]}; expected whole numbers from 0 to 65535"
    ):
        to_rgb(Image.fromarray(np.array([values], dtype=np.int32)))


@pytest.mark.parametrize(
    ("colours", "said"),
    [
        ([0, 0], "the condition is all black"),
        ([0, 15], "the condition is nearly all black"),
        ([255, 255], "the condition is all white"),
        ([240, 255], "the condition is nearly all white"),
        ([100, 100], "the condition is one flat colour"),
        ([0, 255], None),
        ([100, 140], None),
    ],
)
@pytest.mark.parametrize("given_height", [None, 32])
def test_a_condition_of_one_colour_is_said(
    caplog: pytest.LogCaptureFixture, colours: list[int], said: str | None, given_height: int | None
) -> None:
    picture = Image.fromarray(np.repeat(np.array(colours, dtype=np.uint8), 32)[None].repeat(64, 0))
    with caplog.at_level(logging.INFO):
        condition_panel(picture, 64, 128, given_height)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [said] * (said is not None)
    assert all((record.levelname == "INFO") == ("flat" in record.getMessage()) for record in caplog.records)


def test_what_is_no_picture_is_refused_as_a_condition() -> None:
    with pytest.raises(InputError, match=r"the condition is ndarray; expected a Pillow picture"):
        condition_pixels([LEVELS], 64, 64)  # type: ignore[list-item]


def test_a_condition_that_cannot_be_decoded_is_one_line(tmp_path: Path) -> None:
    """A picture that the caller opened is decoded late."""
    (tmp_path / "half.png").write_bytes(encoded("PNG")[:3000])
    with Image.open(tmp_path / "half.png") as picture, pytest.raises(InputError, match="cannot read the condition"):
        condition_panel(picture, 64, 64)
