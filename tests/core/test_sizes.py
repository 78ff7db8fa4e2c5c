"""Sizes that cannot be drawn are refused with the nearest one that can; untrained ones are warned of."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest

from lumina_core.errors import InputError
from lumina_core.pictures.sizes import (
    SizeLimits,
    check_size,
    crop_sizes,
    fill_size,
    nearest_size,
    picture_length,
    published_sizes,
    warn_if_untrained,
)

CONTEXT = SizeLimits(max_tokens=10_240)


@pytest.mark.parametrize("base", [512, 768])
def test_published_crop_sizes(golden: Path, base: int) -> None:
    expected = json.loads((golden / "preprocess" / "expected.json").read_text())["crop_sizes"][str(base)]
    assert crop_sizes(base) == [tuple(size) for size in expected]


@pytest.mark.parametrize("base", [0, 31, 500, -32])
def test_crop_sizes_of_a_bad_base(base: int) -> None:
    with pytest.raises(InputError, match="multiple of 32"):
        crop_sizes(base)


@pytest.mark.parametrize("size", [(768, 768), (512, 1024), (1024, 512), (256, 1024)])
def test_trained_sizes_pass_in_silence(size: tuple[int, int], caplog: pytest.LogCaptureFixture) -> None:
    assert check_size(*size, CONTEXT, prompt_tokens=100) == (size[1] // 8, size[0] // 8)
    warn_if_untrained(*size, None)
    assert not caplog.records


def test_untrained_size_warns_with_the_nearest(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_if_untrained(64, 96, [(64, 64), (256, 256)])
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
    check_size(768, 768, SizeLimits(exact), prompt_tokens=50)
    with pytest.raises(
        InputError, match=f"at most {exact - 1} tokens, .* takes {exact} .50 the prompt's.; the nearest"
    ):
        check_size(768, 768, SizeLimits(exact - 1), prompt_tokens=50)


@pytest.mark.parametrize("size", [(2048, 2048), (4096, 64), (33, 9999), (10**9, 1), (1, 10**400)])
def test_nearest_size_is_legal_and_most_alike_by_the_ratio_of_sides(size: tuple[int, int]) -> None:
    sides = range(32, 4097, 32)
    legal = [(w, h) for w in sides for h in sides if 60 + picture_length(h // 8, w // 8) <= CONTEXT.max_tokens]

    def unlike(other: tuple[int, int]) -> float:
        return sum((math.log(a) - math.log(b)) ** 2 for a, b in zip(other, size, strict=True))

    nearest = nearest_size(*size, CONTEXT, 60)
    assert nearest in legal and unlike(nearest) == pytest.approx(min(map(unlike, legal)))


def test_a_size_too_large_keeps_its_form() -> None:
    width, height = nearest_size(2048, 1024, CONTEXT, 60)
    assert width < 2048 and height < 1024 and 1.8 < width / height < 2.2


def test_side_that_the_tokenizer_cannot_name() -> None:
    with pytest.raises(InputError, match=r"at most 256, .* nearest legal size is 256x64"):
        check_size(288, 64, SizeLimits(max_side=256))


@pytest.mark.parametrize("prompt_tokens", [90, 99, 101, 5000])
def test_prompt_that_leaves_no_room(prompt_tokens: int) -> None:
    with pytest.raises(InputError, match="expected a shorter prompt"):
        check_size(32, 32, SizeLimits(100), prompt_tokens=prompt_tokens)


@pytest.mark.parametrize("width", [64.0, "64", True, None])
def test_side_that_is_no_whole_number(width: object) -> None:
    with pytest.raises(InputError, match="width is"):
        check_size(width, 64, CONTEXT)  # type: ignore[arg-type]


def test_an_error_names_the_nearest_size_that_the_model_was_trained_on() -> None:
    limits = SizeLimits(512, trained=DEMO_SIZES)
    with pytest.raises(InputError, match=r"nearest size that the model was trained on is 96x96$"):
        check_size(768, 768, limits)
    with pytest.raises(InputError, match=r"trained on is 96x192$"):
        check_size(512, 1024, limits)
    with pytest.raises(InputError, match=r"nearest legal size is"):  # none of the trained sizes fits after the prompt
        check_size(768, 768, limits, prompt_tokens=480)


DEMO_SIZES = ((96, 96), (96, 192))


@pytest.mark.parametrize(
    ("given", "trained", "panels", "expected"),
    [
        ((0, 0), None, 1, (768, 768)),
        ((0, 0), None, 2, (512, 1024)),
        ((0, 0), DEMO_SIZES, 1, (96, 96)),
        ((0, 0), DEMO_SIZES, 2, (96, 192)),
        ((0, 0), ((96, 96),), 2, (96, 96)),
        ((512, 0), None, 1, (512, 512)),
        ((0, 1024), None, 2, (512, 1024)),
        ((64, 0), DEMO_SIZES, 1, (64, 96)),
        ((256, 32), None, 1, (256, 32)),
    ],
)
def test_sides_that_are_not_given_are_those_of_the_model(given, trained, panels, expected) -> None:
    assert fill_size(*given, trained, panels) == expected


@pytest.mark.parametrize("side", range(32, 1600, 32))
def test_a_side_that_is_filled_in_makes_a_trained_size_where_there_is_one(side: int) -> None:
    trained = published_sizes()
    stacked = [(width, height) for width, height in trained if (width, height / 2) in trained]
    for panels, sizes in ((1, [size for size in trained if size not in stacked]), (2, stacked)):
        for place, filled in ((0, fill_size(side, 0, None, panels)), (1, fill_size(0, side, None, panels))):
            assert filled[place] == side
            assert filled in sizes or all(size[place] != side for size in sizes)
