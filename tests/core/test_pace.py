"""The window's width follows what is settled, and changes nothing that is drawn."""

import pytest

from lumina_core.decoding.adaptive_window import WIDTH_STEP, Pace
from lumina_core.decoding.settings import DecodeSettings


def pace_of(pictures: int = 1, **settings) -> Pace:
    return Pace(DecodeSettings(**settings), pictures)


def test_width_follows_what_is_settled_and_stays_within_the_window():
    pace = pace_of(window_size=64)
    narrow = pace.width
    for _ in range(20):
        pace.record([20], 1)
    assert narrow < pace.width == 64
    for _ in range(20):
        pace.record([1], 1)
    assert pace.width == WIDTH_STEP


def test_widths_are_few_so_that_each_can_be_captured_once():
    pace = pace_of(window_size=32)
    widths = set()
    for tokens in (1, 3, 9, 30, 2, 5, 1, 1, 17):
        pace.record([tokens], 1)
        widths.add(pace.width)
    assert all(width % WIDTH_STEP == 0 for width in widths) and len(widths) > 2


def test_a_look_after_many_forwards_weighs_as_many():
    often, seldom = pace_of(), pace_of()
    for _ in range(8):
        often.record([2], 1)
    seldom.record([16], 8)
    assert often.recent == pytest.approx(seldom.recent)


def test_the_picture_that_settles_most_sets_the_width():
    pace = pace_of(pictures=2, window_size=128)
    for _ in range(20):
        pace.record([1, 25], 1)
    assert pace.width > 100


@pytest.mark.parametrize("window", [1, 7])
def test_a_small_window_is_never_exceeded(window):
    assert pace_of(window_size=window).width == window


@pytest.mark.parametrize("settings", [{"decoder": "sjd"}, {"decoder": "coupled"}, {"adapt_window": False}])
def test_others_keep_their_window(settings):
    pace = pace_of(window_size=32, **settings)
    pace.record([1], 1)
    assert pace.width == 32
