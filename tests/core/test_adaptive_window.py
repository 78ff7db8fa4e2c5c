"""The window's width: on a GPU the fastest one by measured seconds, on a CPU by the accepted tokens."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any

import pytest

from lumina_core.decoding.adaptive_window import (
    MOST_WIDTHS,
    AdaptiveWindow,
    WidthBy,
    accept_length,
    unlimited_length,
    window_widths,
)
from lumina_core.decoding.settings import DecodeSettings

# Tokens that a forward of `gumbel` accepts, by width, on a simulated law of 4.4 nats a code.
ACCEPTED = {1: 1.0, 2: 1.4, 4: 1.95, 8: 2.6, 16: 3.4, 32: 3.5, 64: 3.6, 128: 3.6}
# Forwards of a picture of 768 × 768 pixels, and of one sync.
FORWARDS, PER_SYNC = 2600, 8


def memory_bound(rows: int) -> float:
    return 3.5 + 0.02 * max(0, rows - 32)


def tensor_bound(rows: int) -> float:
    """An RTX 4090 with two branches: 7 ms at a width of 1, 8 at 16, 10 at 32."""
    return 6.9 + rows / 32 if rows <= 32 else 7.9 + 2.1 * (rows - 32) / 32


def tiles_of_16(rows: int) -> float:
    return 2 + 1.5 * math.ceil(rows / 16)


def adaptive(pictures: int = 1, measured: bool = False, by: WidthBy = WidthBy.CPU, **settings: Any) -> AdaptiveWindow:
    return AdaptiveWindow(DecodeSettings(**settings), pictures, WidthBy.SECONDS if measured else by)


@lru_cache
def continuing(width: int, mean: float) -> float:
    """The probability that one more draft is accepted, for which a window accepts this mean."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        tokens = sum(middle**k for k in range(width))
        low, high = (middle, high) if tokens < mean else (low, middle)
    return low


class Device:
    """A clock for which a forward of so many rows takes `ms(rows)`, and pictures that accept tokens at random.

    The first interval of a width contains its capture, and its seconds are unknown. The context makes steps slower by
    30 % over a run.
    """

    def __init__(self, ms: Callable[[int], float], pictures: int = 1, seed: int = 0, accepted: Any = None) -> None:
        self.ms, self.pictures, self.random = ms, pictures, random.Random(seed)
        self.accepted = accepted or ACCEPTED.__getitem__
        self.forwards = 0
        self.used: dict[int, int] = {}

    def tokens(self, width: int) -> int:
        if width == 1:
            return 1
        more = continuing(width, self.accepted(width))
        # The exponent of the first draft that is not accepted.
        return min(width, 1 + int(math.log(1 - self.random.random()) / math.log(more)))

    def speed(self, width: int) -> float:
        return self.accepted(width) / self.ms(width * 2 * self.pictures)

    def run(self, window: AdaptiveWindow, forwards: int = FORWARDS) -> None:
        for _ in range(forwards // PER_SYNC):
            width, context = window.width, 1 + 0.3 * self.forwards / FORWARDS
            tokens = [sum(self.tokens(width) for _ in range(PER_SYNC)) for _ in range(self.pictures)]
            seconds = 1e-3 * self.ms(width * 2 * self.pictures) * context * PER_SYNC * self.random.gauss(1, 0.03)
            window.record(tokens, PER_SYNC, seconds if width in self.used else None)
            self.used[width] = self.used.get(width, 0) + PER_SYNC
            self.forwards += PER_SYNC

    def share(self, window: AdaptiveWindow) -> float:
        """The speed of what ran, as a share of that of the best width; 1 − share is what all trials cost."""
        best = max(map(self.speed, window.widths))
        time = {width: forwards * self.ms(width * 2 * self.pictures) for width, forwards in self.used.items()}
        return sum(ms * self.speed(width) for width, ms in time.items()) / best / sum(time.values())


def shares(ms: Callable[[int], float], pictures: int = 1, window_size: int = 64, **device: Any) -> list[float]:
    found = []
    for seed in range(8):
        simulated, window = Device(ms, pictures, seed, **device), adaptive(pictures, True, window_size=window_size)
        simulated.run(window)
        found.append(simulated.share(window))
    return found


@pytest.mark.parametrize(
    ("ms", "pictures", "best"),
    [(memory_bound, 1, 16), (tensor_bound, 1, 16), (tiles_of_16, 1, 8), (memory_bound, 8, 8), (tiles_of_16, 8, 2)],
)
def test_a_run_has_nearly_the_speed_of_the_best_width(ms: Callable[[int], float], pictures: int, best: int) -> None:
    device = Device(ms, pictures)
    assert best == max(window_widths(64, 2 * pictures), key=device.speed)
    found = shares(ms, pictures)
    assert sum(found) / len(found) > 0.97 and min(found) > 0.95, found


@pytest.mark.parametrize("law", ["published", "demo"])
def test_on_a_cpu_with_quantised_weights_it_finds_narrow_windows_and_wide_ones(law: str) -> None:
    """Seconds are those of 22,016 × 4,096 in int4 on two cores: few rows are memory bound, more are not."""

    def int4(rows: int) -> float:
        return max(2.4, 1.04 * rows) + 0.5

    # Few drafts of the published model are right, and nearly all of the demo's.
    accepted = {"published": ACCEPTED.__getitem__, "demo": lambda width: max(1.001, 0.97 * width)}[law]
    device, window = Device(int4, accepted=accepted), adaptive(by=WidthBy.CPU_SECONDS)
    assert window.widths == (1, 2, 4, 8, 16, 32) and window.width == 4
    device.run(window)
    most_used = max(device.used, key=device.used.__getitem__)
    assert most_used in {"published": (1, 2), "demo": (16, 32)}[law]
    assert device.share(window) > 0.9


def test_another_law_of_acceptance_is_learned() -> None:
    # Here most drafts are right, so that a forward accepts more the wider it is.
    found = shares(tensor_bound, accepted=lambda width: 0.9 * width**0.9)
    assert min(found) > 0.95, found


def test_trials_cost_little_where_the_width_in_use_is_the_best() -> None:
    device, window = Device(tensor_bound), adaptive(measured=True, window_size=128)
    device.run(window)
    others = sum(forwards for width, forwards in device.used.items() if width != 16)
    assert 0 < others < 0.2 * FORWARDS and device.share(window) > 0.97
    # Widths beyond a slower neighbour are not tried.
    assert set(device.used) == {8, 16, 32}


def test_a_width_is_tried_again_and_taken_when_it_has_become_faster() -> None:
    device, window = Device(tiles_of_16), adaptive(measured=True)
    device.run(window)
    before = window.width
    device.ms, device.used = memory_bound, dict.fromkeys(window.widths, 0)
    device.run(window)
    assert before == 8 and device.share(window) > 0.85
    assert device.used[8] < 0.4 * FORWARDS


def test_pauses_do_not_make_a_width_slow_for_ever() -> None:
    device, window = Device(memory_bound, seed=1), adaptive(measured=True)
    pausing = Device(lambda rows: 5 * memory_bound(rows), seed=2)
    # The whole trial of the second width is slow.
    while window.width == 16:
        device.run(window, PER_SYNC)
    other = window.width
    pausing.used[other] = 0
    while window.width == other:
        pausing.run(window, PER_SYNC)
    device.run(window)
    assert device.used[other] > 0


def test_no_width_is_tried_before_the_first_one_is_known() -> None:
    window = adaptive(measured=True)
    for _ in range(50):
        window.record([20], 8, None)
    assert window.width == 16


def test_a_width_whose_seconds_stay_unknown_is_left() -> None:
    window = adaptive(measured=True)
    widths = []
    for _ in range(60):
        widths.append(window.width)
        window.record([20], 8, 0.1 if window.width == 16 else None)
    assert {8, 32} <= set(widths) and widths.count(16) > 30


def test_complete_pictures_do_not_count() -> None:
    window = adaptive(2, True)
    for complete in (False, True):
        used = []
        for _ in range(300):
            width = window.width
            used.append(width)
            tokens = round(8 * accept_length(width, 3.65))
            window.record([tokens, 0 if complete else tokens], 8, 6 + width / 8)
        window.record([0, 0], 8, 0.1)
        # With half the tokens, 8 would be faster.
        assert used[-100:].count(16) > 80


@pytest.mark.parametrize(
    ("largest", "rows", "widths"),
    [
        (32, 2, (8, 16, 32)),
        (128, 2, (8, 16, 32, 64, 128)),
        (128, 1, (16, 32, 64, 128)),
        (40, 2, (8, 16, 32, 40)),
        (32, 16, (2, 4, 8, 16, 32)),
        (128, 16, (2, 4, 8, 16, 128)),
        (32, 6, (2, 5, 10, 21, 32)),
        (16, 1, (16,)),
        (7, 2, (7,)),
        (2, 64, (2,)),
        (1, 2, (1,)),
    ],
)
def test_widths_fill_tiles_up_to_the_window(largest: int, rows: int, widths: tuple[int, ...]) -> None:
    assert window_widths(largest, rows) == widths


def test_lists_of_widths_are_short_and_ascend() -> None:
    for largest in range(1, 129):
        for rows in (*range(1, 20), 32, 64, 128):
            for tile_rows in (4, 8, 16, 64):
                widths = window_widths(largest, rows, tile_rows)
                assert len(widths) <= MOST_WIDTHS and widths[-1] == largest and (widths[0] > 1 or largest == 1)
                assert all(narrow < wide for narrow, wide in pairwise(widths))


@pytest.mark.parametrize("width", [2, 8, 16, 64])
def test_the_estimate_of_accepted_tokens_is_that_of_the_simulated_law(width: int) -> None:
    assert accept_length(width, 3.65) == pytest.approx(ACCEPTED[width], rel=0.06)


@pytest.mark.parametrize("accepted", [1.2, 2.6, 7.5])
def test_the_estimate_is_inverted(accepted: float) -> None:
    assert accept_length(16, unlimited_length(16, accepted)) == pytest.approx(accepted, rel=1e-3)


def test_without_seconds_the_width_follows_the_accepted_tokens() -> None:
    window = adaptive(window_size=64)
    narrow = window.width
    for _ in range(20):
        window.record([20], 1)
    assert narrow < window.width == 64
    for _ in range(20):
        window.record([1], 1)
    assert window.width == 8


def test_seconds_change_nothing_where_forwards_must_be_reproducible() -> None:
    slow, fast = adaptive(window_size=64), adaptive(window_size=64)
    for tokens in (1, 3, 9, 30, 2, 5, 1, 1, 17):
        slow.record([tokens], 1, 5.0)
        fast.record([tokens], 1, 0.001)
        assert slow.width == fast.width


def test_widths_are_few_so_that_each_can_be_captured_once() -> None:
    window = adaptive(window_size=32)
    widths = set()
    for tokens in (1, 3, 9, 30, 2, 5, 1, 1, 17, *[1] * 9):
        window.record([tokens], 1)
        widths.add(window.width)
    assert widths <= set(window.widths) and len(widths) > 2


def test_a_synchronisation_after_many_forwards_weighs_as_many() -> None:
    often, seldom = adaptive(window_size=128), adaptive(window_size=128)
    for _ in range(8):
        often.record([18], 1)
    seldom.record([18 * 8], 8)
    assert often.width == seldom.width == 64


def test_the_picture_that_accepts_most_sets_the_width() -> None:
    window = adaptive(pictures=2, window_size=128)
    for _ in range(20):
        window.record([1, 25], 1)
    assert window.width == 128


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("size", [1, 7])
def test_a_small_window_is_never_exceeded(size: int, measured: bool) -> None:
    window = adaptive(window_size=size, measured=measured)
    for _ in range(30):
        assert 1 <= window.width <= size
        window.record([8 * size], 8, 0.1)


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("settings", [{"decoder": "sjd"}, {"decoder": "coupled"}, {"adapt_window": False}])
def test_others_keep_their_window(settings: dict[str, Any], measured: bool) -> None:
    window = adaptive(window_size=32, measured=measured, **settings)
    for _ in range(20):
        window.record([1], 1, 0.1)
        assert window.width == 32 and window.widths == (32,)


def test_ar_has_one_token_a_forward() -> None:
    assert adaptive(decoder="ar", measured=True).width == 1


@pytest.mark.parametrize(("pictures", "largest", "expected"), [(1, 32, 8), (1, 4, 4), (8, 32, 2), (2, 64, 4)])
def test_one_tile_is_one_width(pictures: int, largest: int, expected: int) -> None:
    window = adaptive(pictures, by=WidthBy.ONE_TILE, window_size=largest)
    for tokens in (1, 30):
        assert (window.width, window.widths) == (expected, (expected,))
        window.record([tokens] * pictures, 8, 1.0)


def test_by_accept_length_seconds_play_no_part() -> None:
    """So that a seed takes the same widths, and draws the same picture, in every run."""
    runs = []
    for seconds in (0.001, 10.0):
        window = adaptive(by=WidthBy.ACCEPT_LENGTH, window_size=64)
        assert window.widths == (8, 16, 32, 64)
        widths = []
        for tokens in (8, 40, 80, 160, 20, 8, 8):
            window.record([tokens], 8, seconds)
            widths.append(window.width)
        runs.append(widths)
    assert runs[0] == runs[1] and len(set(runs[0])) > 2
