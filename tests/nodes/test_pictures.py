"""Conversion between IMAGE and Pillow images: alpha, masks, grey, bit depth."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch


@pytest.fixture
def pictures(pack):
    return importlib.import_module(f"{pack.__name__}.nodes.pictures")


@pytest.fixture
def input_error(pack):
    return importlib.import_module(f"{pack.__name__}.lumina_core.errors").InputError


LEVELS = torch.arange(256, dtype=torch.float32).reshape(1, 16, 16, 1) / 255


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_every_level_of_every_mode_is_exact(pictures, channels, mode):
    (picture,) = pictures.to_pictures(LEVELS.expand(1, 16, 16, channels))
    assert picture.mode == mode
    assert np.array_equal(np.asarray(picture).reshape(256, channels)[:, 0], np.arange(256))


def test_an_image_is_saved_without_loss(pictures):
    """Save Image multiplies by 255 and truncates."""
    image = pictures.from_pictures(pictures.to_pictures(LEVELS.expand(1, 16, 16, 3)))
    assert image.shape == (1, 16, 16, 3)
    assert np.array_equal((255.0 * image.numpy()).astype(np.uint8)[..., 0].ravel(), np.arange(256))


def test_values_are_rounded_and_clamped(pictures):
    image = torch.tensor([100.4, 100.6, -5.0, 300.0]).reshape(1, 1, 4, 1) / 255
    assert list(np.asarray(pictures.to_pictures(image)[0])[0]) == [100, 101, 0, 255]


@pytest.mark.parametrize("masks", [1, 2])
def test_a_mask_becomes_alpha(pictures, masks):
    mask = torch.zeros(masks, 2, 3)
    mask[0, 0, 0] = 1
    first, second = (np.asarray(one) for one in pictures.to_pictures(torch.zeros(2, 2, 3, 3), mask))
    assert first.shape == (2, 3, 4) and first[0, 0, 3] == 0 and first[1, 2, 3] == 255
    assert second[0, 0, 3] == (0 if masks == 1 else 255)


def test_a_mask_multiplies_alpha(pictures):
    image = torch.full((1, 1, 2, 4), 0.6)
    mask = torch.tensor([[[0.5, 0.0]]])
    assert list(np.asarray(pictures.to_pictures(image, mask)[0])[0, :, 3]) == [76, 153]


def test_an_empty_mask_of_any_size_is_ignored(pictures):
    assert pictures.to_pictures(torch.zeros(1, 9, 9, 3), torch.zeros(1, 64, 64))[0].mode == "RGB"


def test_wrong_shapes_are_errors(pictures, input_error):
    with pytest.raises(input_error, match=r"\(2, 64, 64\).*\(1, 9, 9\)"):
        pictures.to_pictures(torch.zeros(1, 9, 9, 3), torch.ones(2, 64, 64))
    for shape in ((1, 9, 9, 2), (9, 9, 3)):
        with pytest.raises(input_error, match="1, 3 or 4 channels"):
            pictures.to_pictures(torch.zeros(shape))


@pytest.mark.parametrize("convert", ["to_pictures", "to_planes"])
@pytest.mark.parametrize(
    "value", [None, [[0.5]], np.zeros((1, 9, 9, 3)), torch.zeros(1, 9, 9, 3, dtype=torch.complex64)]
)
def test_what_is_no_image_is_an_error(pictures, input_error, convert, value):
    with pytest.raises(input_error, match="expected an IMAGE"):
        getattr(pictures, convert)(value)


@pytest.mark.parametrize("convert", ["to_pictures", "to_planes"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), "1 values that are NaN or infinite, of 12"),
        (float("inf"), "1 values that are NaN or infinite, of 12"),
        (255.0, "values from 0 to 255; expected 0 to 1: scale them first"),
        (-1.0, "values from -1 to 0; expected 0 to 1"),
    ],
)
def test_values_of_another_range_are_errors(pictures, input_error, convert, value, expected):
    image = torch.zeros(1, 2, 2, 3)
    image[0, 1, 1, 0] = value
    with pytest.raises(input_error, match=expected):
        getattr(pictures, convert)(image)


def test_a_mask_of_another_range_is_an_error(pictures, input_error):
    for value in (255.0, float("nan")):
        with pytest.raises(input_error, match="the mask holds"):
            pictures.to_pictures(torch.zeros(1, 2, 2, 3), torch.full((1, 2, 2), value))


@pytest.mark.parametrize("convert", ["to_pictures", "to_planes"])
def test_clamping_is_said(pictures, caplog, convert):
    """An overshoot of resampling is near; half a level is not worth a word."""
    getattr(pictures, convert)(torch.full((1, 2, 2, 3), 1.001))
    assert not caplog.records
    getattr(pictures, convert)(torch.full((1, 2, 2, 3), 1.1))
    assert "values from 1.1 to 1.1; expected 0 to 1: they are clamped" in caplog.text


def test_planes_are_clamped(pictures):
    assert pictures.to_planes(torch.full((1, 2, 2, 3), 1.1)).max() == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_dtype_of_floats(pictures, dtype):
    image = torch.full((1, 2, 2, 4), 0.5, dtype=dtype)
    assert np.asarray(pictures.to_pictures(image)[0])[0, 0].tolist() == [128, 128, 128, 128]
    assert pictures.to_planes(image).dtype == torch.float32
    assert pictures.to_planes(image).unique().tolist() == [0.5]
