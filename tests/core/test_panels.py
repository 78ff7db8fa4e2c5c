"""Pictures are prepared as the published program does; sizes that cannot be drawn are refused with one that can."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lumina_core.errors import InputError
from lumina_core.pictures.panels import (
    center_crop,
    check_size,
    condition_panel,
    condition_pixels,
    crop_sizes,
    given_size,
    load_picture,
    nearest_size,
    panel_size,
    to_image,
    to_pixels,
    to_rgb,
)
from lumina_core.tokens.vocabulary import picture_length

CONTEXT = 10_240
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


@pytest.mark.parametrize("base", [512, 768])
def test_published_crop_sizes(golden: Path, base: int) -> None:
    expected = json.loads((golden / "preprocess" / "expected.json").read_text())["crop_sizes"][str(base)]
    assert crop_sizes(base) == [tuple(size) for size in expected]


@pytest.mark.parametrize("base", [0, 31, 500, -32])
def test_crop_sizes_of_a_bad_base(base: int) -> None:
    with pytest.raises(InputError, match="multiple of 32"):
        crop_sizes(base)


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


def test_overlong_picture_is_the_centre_of_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trimming before growing saves memory and changes no pixel by more than the rounding of the resampler."""
    from lumina_core.pictures import panels

    source = noise(2, 400)
    monkeypatch.setattr(panels, "_LONGEST_RESIZED", 10**9)
    whole = np.asarray(center_crop(source, (64, 32))).astype(int)
    monkeypatch.setattr(panels, "_LONGEST_RESIZED", 1000)
    assert abs(np.asarray(center_crop(source, (64, 32))).astype(int) - whole).max() <= 1


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
    assert panel_size(64, 128) == (64, 64)
    assert condition_panel(noise(100, 50), 64, 96).size == (64, 48)
    several = [noise(64, 32), noise(300, 40, 4), Image.new("L", (1, 9))]
    pixels = condition_pixels(several, 64, 64)
    assert pixels.shape == (3, 3, 32, 64) and pixels.dtype == torch.float32
    assert torch.equal(pixels[:1], to_pixels(several[0]))
    assert torch.equal(condition_pixels(several[1], 64, 64), pixels[1:2])


def test_published_condition_is_half_the_canvas(golden: Path) -> None:
    canvas = Image.open(golden / "end_to_end" / "i2i_expected.png").size
    condition = load_picture(golden / "end_to_end" / "condition.png")
    assert condition.size == panel_size(*canvas)
    assert torch.equal(condition_pixels(condition, *canvas), to_pixels(condition))


def test_condition_that_does_not_fit() -> None:
    with pytest.raises(InputError, match="multiples of 16"):
        panel_size(64, 40)
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


@pytest.mark.parametrize("size", [(768, 768), (512, 1024), (1024, 512), (256, 1024)])
def test_trained_sizes_pass_in_silence(size: tuple[int, int], caplog: pytest.LogCaptureFixture) -> None:
    check_size(*size, CONTEXT, prompt_tokens=100)
    assert not caplog.records


def test_untrained_size_warns_with_the_nearest(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_size(64, 96, CONTEXT, [(64, 64), (256, 256)])
    assert "64x96" in caplog.text and "64x64" in caplog.text


@pytest.mark.parametrize(
    ("size", "nearest"),
    [((100, 64), "96x64"), ((0, 64), "32x64"), ((-5, 31), "32x32"), ((769, 767), "768x768"), ((32, 8), "32x32")],
)
def test_size_off_the_grid_names_the_nearest(size: tuple[int, int], nearest: str) -> None:
    with pytest.raises(
        InputError,
        match=rf"is {size[0]}x{size[1]}; expected positive multiples of 32; the nearest legal size is {nearest}$",
    ):
        check_size(*size, CONTEXT)


def test_the_context_holds_picture_and_prompt_to_the_token() -> None:
    exact = picture_length(96, 96) + 50
    check_size(768, 768, exact, prompt_tokens=50)
    with pytest.raises(
        InputError, match=f"at most {exact - 1} tokens, .* takes {exact} .50 the prompt's.; the nearest"
    ):
        check_size(768, 768, exact - 1, prompt_tokens=50)


@pytest.mark.parametrize("size", [(2048, 2048), (4096, 64), (33, 9999), (10**9, 1), (1, 10**400)])
def test_nearest_size_is_legal_and_most_alike_by_the_ratio_of_sides(size: tuple[int, int]) -> None:
    sides = range(32, 4097, 32)
    legal = [(w, h) for w in sides for h in sides if 60 + picture_length(h // 8, w // 8) <= CONTEXT]

    def unlike(other: tuple[int, int]) -> float:
        return sum((math.log(a) - math.log(b)) ** 2 for a, b in zip(other, size, strict=True))

    nearest = nearest_size(*size, CONTEXT, 60)
    assert nearest in legal and unlike(nearest) == pytest.approx(min(map(unlike, legal)))


def test_a_size_too_large_keeps_its_form() -> None:
    width, height = nearest_size(2048, 1024, CONTEXT, 60)
    assert width < 2048 and height < 1024 and 1.8 < width / height < 2.2


def test_side_that_the_tokenizer_cannot_name() -> None:
    with pytest.raises(InputError, match=r"at most 256, .* nearest legal size is 256x64"):
        check_size(288, 64, CONTEXT, max_side=256)


@pytest.mark.parametrize("prompt_tokens", [90, 99, 101, 5000])
def test_prompt_that_leaves_no_room(prompt_tokens: int) -> None:
    with pytest.raises(InputError, match="expected a shorter prompt"):
        check_size(32, 32, 100, prompt_tokens=prompt_tokens)


@pytest.mark.parametrize("width", [64.0, "64", True, None])
def test_side_that_is_no_whole_number(width: object) -> None:
    with pytest.raises(InputError, match="width is"):
        check_size(width, 64, CONTEXT)  # type: ignore[arg-type]
