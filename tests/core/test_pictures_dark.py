"""Values that do not fill their range come out dark: that is said, with the range."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lumina_core.pictures.images import load_picture, to_rgb
from lumina_core.pictures.levels import warn_if_flat

from .test_pictures import png
from .tiff_files import DEFLATE, tiff

RAMP = np.linspace(0, 1, 256).reshape(16, 16)


def channels(highest: int, count: int, alpha: int | None = None) -> np.ndarray[Any, Any]:
    """A ramp of 16 bits in `count` channels, with alpha as the last one."""
    values = np.repeat((RAMP * highest).astype(np.uint16)[..., None], count, -1)
    if alpha is not None:
        values[..., -1] = alpha
    return values


def deep_png(values: np.ndarray[Any, Any]) -> bytes:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(16, 16, {2: 4, 3: 2, 4: 6}[values.shape[-1]], 16, rows)


def deep_ppm(values: np.ndarray[Any, Any], white: int = 65535) -> bytes:
    return b"P6 16 16 %d\n" % white + values.astype(">u2").tobytes()


def said(path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings of a picture."""
    path.write_bytes(content)
    to_rgb(load_picture(path))
    assert all(record.levelname == "WARNING" for record in caplog.records)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(deep_png(channels(255, 3)), "holds values below 256 of 65535", id="8 bits, PNG"),
        pytest.param(deep_png(channels(4095, 3)), "holds values below 4096 of 65535", id="12 bits, PNG"),
        pytest.param(deep_png(channels(32768, 3)), "holds values below 33024 of 65535", id="15 bits, PNG"),
        pytest.param(deep_png(channels(4095, 4, 65535)), "holds values below 4096 of", id="12 bits and alpha, PNG"),
        pytest.param(deep_png(channels(4095, 2, 65535)), "holds values below 4096 of", id="grey and alpha, PNG"),
        pytest.param(deep_png(channels(65535, 2, 255)), "holds alpha values below 256 of 65535", id="alpha, PNG"),
        pytest.param(tiff(channels(4095, 3)), "holds values below 4096 of", id="TIFF"),
        pytest.param(tiff(channels(4095, 3), ">"), "holds values below 4096 of", id="TIFF, big-endian"),
        pytest.param(tiff(channels(4095, 3), compression=DEFLATE), "holds values below 4096", id="TIFF, deflate"),
        pytest.param(tiff(channels(4095, 4), tags={262: 5}), "holds values below 4096 of", id="CMYK"),
        pytest.param(deep_ppm(channels(255, 3)), "holds values below 512 of 65535", id="8 bits, PPM"),
        pytest.param(deep_ppm(channels(255, 3), 4095), "holds values below 272 of 4095", id="8 bits in 12, PPM"),
        pytest.param(b"P3 1 1 65535\n" + b" 300" * 3, "holds values below 512 of 65535", id="text, PPM"),
    ],
)
def test_dark_channels_of_sixteen_bits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes, expected: str
) -> None:
    (message,) = said(tmp_path / "p", content, caplog)
    assert expected in message and "scale them to" in message


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(deep_png(channels(65535, 3)), id="PNG"),
        pytest.param(deep_png(channels(65535, 4, 65535)), id="PNG with alpha"),
        pytest.param(tiff(channels(40000, 3)), id="TIFF"),
        pytest.param(deep_ppm(channels(65535, 3)), id="PPM"),
        pytest.param(deep_ppm(channels(1023, 3), 1023), id="PPM of 10 bits"),
        pytest.param(png(1, 1, 2, 8, b"\0\1\2\3"), id="8 bits"),
    ],
)
def test_channels_that_fill_their_range(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    assert not said(tmp_path / "p", content, caplog)


def test_dark_channels_of_a_picture_that_the_caller_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "p.png").write_bytes(deep_png(channels(4095, 3)))
    with Image.open(tmp_path / "p.png") as picture:
        to_rgb(picture, "the map")
    assert "the map holds values below 4096 of 65535" in caplog.text


def grey(values: np.ndarray[Any, Any]) -> bytes:
    return b"P5 16 16 65535\n" + values.astype(">u2").tobytes()


def with_invalid(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Values of which three are 65535, which stands for none."""
    values = values.astype(np.uint16)
    values[0, :3] = 65535
    return values


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param(RAMP * 32768, "values from 0 to 32768 of 65535: it is dark; .* near white, far black", id="15"),
        pytest.param(RAMP * 20000, r"values from 0 to 20000 .*\(a depth in millimetres\?\)", id="millimetres"),
        pytest.param(with_invalid(RAMP * 255), "from 3 to 255, and 65535 in 3 pixels: the others are dark", id="8"),
        pytest.param(with_invalid(RAMP * 4095), "from 48 to 4095, and 65535 in 3 pixels", id="12"),
        pytest.param(with_invalid(RAMP * 8000 + 500), "from 594 to 8500, and 65535 in 3 pixels", id="millimetres too"),
    ],
)
@pytest.mark.parametrize("write", [grey, tiff], ids=["PPM", "TIFF"])
def test_dark_grey_of_sixteen_bits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, values: np.ndarray[Any, Any], expected: str, write: Any
) -> None:
    (message,) = said(tmp_path / "p", write(values.astype(np.uint16)), caplog)
    assert re.search(expected, message)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(RAMP * 65535, id="whole range"),
        pytest.param(RAMP * 40000, id="more than half"),
        pytest.param((RAMP > 0.9) * 65535, id="mask"),
        pytest.param(np.full((16, 16), 65535), id="white"),
    ],
)
def test_grey_that_fills_its_range(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, values: np.ndarray[Any, Any]
) -> None:
    assert not said(tmp_path / "p", grey(values), caplog)


@pytest.mark.parametrize(("low", "high"), [(0.3, 0.95), (0, 0.9), (0.3, 1)])
def test_floats_that_do_not_fill_0_to_1_are_asked_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, low: float, high: float
) -> None:
    (message,) = said(tmp_path / "p", tiff((low + RAMP * (high - low)).astype(np.float32)), caplog)
    assert f"values from {low:g} to {high:g}: read with 1 as white; if that is wrong (a depth in metres?)" in message


def test_floats_that_fill_0_to_1_are_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not said(tmp_path / "p", tiff((0.01 + RAMP * 0.98).astype(np.float32)), caplog)


@pytest.mark.parametrize(("highest", "expected"), [(17, "is dark: its brightest value is 17 of 255"), (64, "")])
def test_a_dark_picture_is_said(caplog: pytest.LogCaptureFixture, highest: int, expected: str) -> None:
    warn_if_flat(Image.fromarray(np.repeat((RAMP * highest).astype(np.uint8)[..., None], 3, -1)), "the condition")
    assert expected in caplog.text and len(caplog.records) == bool(expected)
