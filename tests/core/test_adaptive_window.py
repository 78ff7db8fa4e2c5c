"""The window's width follows the accepted tokens and stays within the window."""

from __future__ import annotations

from typing import Any

import pytest

from lumina_core.decoding.adaptive_window import WIDTH_STEP, AdaptiveWindow
from lumina_core.decoding.settings import DecodeSettings


def adaptive(pictures: int = 1, **settings: Any) -> AdaptiveWindow:
    return AdaptiveWindow(DecodeSettings(**settings), pictures)


def test_width_follows_the_accepted_tokens_and_stays_within_the_window() -> None:
    window = adaptive(window_size=64)
    narrow = window.width
    for _ in range(20):
        window.record([20], 1)
    assert narrow < window.width == 64
    for _ in range(20):
        window.record([1], 1)
    assert window.width == WIDTH_STEP


def test_widths_are_few_so_that_each_can_be_captured_once() -> None:
    window = adaptive(window_size=32)
    widths = set()
    for tokens in (1, 3, 9, 30, 2, 5, 1, 1, 17):
        window.record([tokens], 1)
        widths.add(window.width)
    assert all(width % WIDTH_STEP == 0 for width in widths) and len(widths) > 2


def test_a_synchronisation_after_many_forwards_weighs_as_many() -> None:
    often, seldom = adaptive(), adaptive()
    for _ in range(8):
        often.record([2], 1)
    seldom.record([16], 8)
    assert often.recent == pytest.approx(seldom.recent)


def test_the_picture_that_accepts_most_sets_the_width() -> None:
    window = adaptive(pictures=2, window_size=128)
    for _ in range(20):
        window.record([1, 25], 1)
    assert window.width > 100


@pytest.mark.parametrize("size", [1, 7])
def test_a_small_window_is_never_exceeded(size: int) -> None:
    assert adaptive(window_size=size).width == size


@pytest.mark.parametrize("settings", [{"decoder": "sjd"}, {"decoder": "coupled"}, {"adapt_window": False}])
def test_others_keep_their_window(settings: dict[str, Any]) -> None:
    window = adaptive(window_size=32, **settings)
    window.record([1], 1)
    assert window.width == 32
