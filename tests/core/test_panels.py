"""Pictures are prepared as the published program does; what is given at the top of a canvas has exactly its size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lumina_core.errors import InputError
from lumina_core.pictures.images import center_crop, load_picture, to_image, to_pixels, to_rgb
from lumina_core.pictures.panels import condition_panel, condition_pixels, given_size

# The golden pictures are of Pillow 13, whose resampler rounds otherwise than those before.
RESAMPLER_ERROR = 0 if int(PIL.__version__.split(".")[0]) >= 13 else 16


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("case", range(4))
def test_published_preprocessing(golden: Path, case: int) -> None:
    expected = json.loads((golden / "preprocess" / "expected.json").read_text())["cases"][case]
    picture = center_crop(load_picture(golden / "preprocess" / expected["input"]), expected["size"])
    wanted = Image.open(golden / "preprocess" / expected["expected"])
    error = abs(np.asarray(picture).astype(int) - np.asarray(wanted))
    assert error.shape == (*expected["size"][::-1], 3)
    assert error.max() <= RESAMPLER_ERROR
    assert error.mean() <= RESAMPLER_ERROR / 50


@pytest.mark.parametrize("case", ["f8_square", "f8_wide"])
def test_published_pixels(golden: Path, case: str) -> None:
    pixels = to_pixels(load_picture(golden / "movqgan" / case / "input.png"))
    assert torch.equal(pixels, load_file(golden / "movqgan" / case / "expected.safetensors")["pixels"])


def test_every_grey_survives_the_way_to_pixels_and_back() -> None:
    picture = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
    np.testing.assert_array_equal(np.asarray(to_image(to_pixels(picture))), np.asarray(picture))


def test_pixels_out_of_range_are_clamped() -> None:
    pixels = torch.tensor([-1.5, -1.0, 0.999, 3.0]).repeat(3, 1, 1)
    assert np.asarray(to_image(pixels))[0, :, 0].tolist() == [0, 0, 255, 255]
    with pytest.raises(InputError, match="shape"):
        to_image(torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("source", [(1, 1), (1, 700), (65, 33), (700, 1), (129, 257), (3000, 40)])
def test_crop_has_exactly_the_size(source: tuple[int, int]) -> None:
    assert center_crop(noise(*source), (64, 32)).size == (64, 32)


def test_overlong_picture_is_the_centre_of_the_same() -> None:
    """A picture so long that it is trimmed before growing is that picture grown whole, but for the rounding."""
    source = noise(2, 2400)
    whole = source.resize((64, 32 * 2400), Image.Resampling.BICUBIC).crop((0, 16 * 2399, 64, 16 * 2401))
    difference = np.asarray(center_crop(source, (64, 32))).astype(int) - np.asarray(whole)
    assert abs(difference).max() <= 1


def test_one_pixel_wide_and_very_long_stays_small() -> None:
    assert center_crop(Image.new("RGB", (1, 60_000), "red"), (768, 384)).getcolors() == [(768 * 384, (255, 0, 0))]


def test_every_mode_becomes_rgb() -> None:
    for mode in ("1", "L", "LA", "P", "CMYK", "YCbCr", "RGBA", "I;16", "I"):
        assert to_rgb(Image.new(mode, (4, 4))).mode == "RGB", mode


def test_sixteen_bits_keep_their_grey(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 32_896, dtype=np.uint16)).save(tmp_path / "deep.png")
    assert load_picture(tmp_path / "deep.png").getpixel((0, 0)) == (128, 128, 128)


def test_alpha_is_blended_on_white() -> None:
    picture = Image.new("RGBA", (1, 2), (10, 20, 30, 0))
    picture.putpixel((0, 1), (10, 20, 30, 255))
    assert np.asarray(to_rgb(picture))[:, 0].tolist() == [[255, 255, 255], [10, 20, 30]]


def test_photo_is_put_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert load_picture(tmp_path / "turned.jpg").size == (4, 8)


def test_unreadable_pictures_are_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    noise(64, 64).save(whole)
    (tmp_path / "half.png").write_bytes(whole.read_bytes()[:5000])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("half.png", "text.png", "empty.png", "absent.png", "."):
        with pytest.raises(InputError, match="cannot read the picture"):
            load_picture(tmp_path / name)


def test_empty_picture_cannot_be_cropped() -> None:
    for source, size in (((0, 4), (32, 32)), ((4, 4), (0, 32))):
        with pytest.raises(InputError, match="cannot crop"):
            center_crop(Image.new("RGB", source), size)


def test_condition_fills_the_upper_panel() -> None:
    assert given_size(64, 128) == (64, 64)
    assert condition_panel(noise(100, 50), 64, 96).size == (64, 48)
    several = [noise(64, 32), noise(300, 40, 4), Image.new("L", (1, 9))]
    pixels = condition_pixels(several, 64, 64)
    assert pixels.shape == (3, 3, 32, 64) and pixels.dtype == torch.float32
    assert torch.equal(pixels[:1], to_pixels(several[0]))
    assert torch.equal(condition_pixels(several[1], 64, 64), pixels[1:2])


def test_published_condition_is_half_the_canvas(golden: Path) -> None:
    canvas = Image.open(golden / "end_to_end" / "i2i_expected.png").size
    condition = load_picture(golden / "end_to_end" / "condition.png")
    assert condition.size == given_size(*canvas)
    assert torch.equal(condition_pixels(condition, *canvas), to_pixels(condition))


def test_condition_that_does_not_fit() -> None:
    with pytest.raises(InputError, match="multiples of 32"):
        given_size(64, 40)
    with pytest.raises(InputError, match="at least one"):
        condition_pixels([], 64, 64)


def test_first_rows_keep_the_pixels_of_a_picture_as_wide_as_the_canvas() -> None:
    picture = noise(64, 100)
    for given_height in (8, 40, 96):
        panel = condition_panel(picture, 64, 128, given_height)
        assert np.array_equal(np.asarray(panel), np.asarray(picture)[:given_height])


def test_first_rows_of_any_picture_are_scaled_to_the_width() -> None:
    """A picture that is black above and white below its middle is still so after scaling to any width."""
    for width, height in ((32, 64), (200, 400), (1, 2), (3000, 6000)):
        picture = Image.new("L", (width, height), 255)
        picture.paste(0, (0, 0, width, height // 2))
        panel = np.asarray(condition_panel(picture, 64, 256, 128))
        assert panel.shape == (128, 64, 3)
        dark = (panel < 128).all(axis=(1, 2))
        assert dark[:60].all() and not dark[68:].any(), (width, height)
    pixels = condition_pixels([noise(64, 64), Image.new("RGBA", (8, 9))], 64, 128, 64)
    assert pixels.shape == (2, 3, 64, 64) and (pixels[1] == 1).all()


@pytest.mark.parametrize("given_height", [0, -8, 12, 128, 136])
def test_a_given_height_must_be_whole_rows_and_leave_some(given_height: int) -> None:
    with pytest.raises(InputError, match=r"multiple of 8 from 8 to 120"):
        given_size(64, 128, given_height)


def test_a_picture_too_short_to_be_continued_says_how_much_there_is() -> None:
    with pytest.raises(InputError, match=r"100x50 is 32 high at the canvas's width of 64"):
        condition_panel(noise(100, 50), 64, 128, 40)
    assert condition_panel(noise(100, 50), 64, 128, 32).size == (64, 32)
