"""The width of the next forward: by measured seconds, or by the recent accept length."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..kernels.draft_tree import NO_TREE, DraftTree
from .settings import DecodeSettings

# Rows of the smallest tile of a matmul on a GPU; a tile costs the same whether its rows are filled or not.
TILE_ROWS = 16
# Widths in a list, and rows of the first width of a run: memory bound or nearly so on every GPU.
MOST_WIDTHS, FIRST_ROWS = 5, 32
# On a CPU widths do not depend on the batch, so that the forwards of a picture do not.
LEAST_CPU_WIDTH = 8
CPU_WIDTHS, CPU_FIRST_ROWS = (1, 2, 4, 8, 16, 32), 8
# Intervals with known seconds in the first trial of a width, the most that a trial takes, and the speed to switch for.
TRIAL_INTERVALS, LONGEST_TRIAL, SWITCH_SPEED = 3, 6, 1.02
# The part of a run's time that later trials of each neighbour may cost, and the least and most that one counts as
# costing, in intervals.
RETRY_COST, LEAST_COST, MOST_COST = 0.005, 0.02, 1.0
# The weight of the last interval, and of the estimate before any token, in forwards of one picture.
RECENT, PRIOR_FORWARDS = 0.1, 64
# A pause of the machine is no slow step: an interval counts at most this many times what is expected.
MOST_SLOWDOWN = 1.5


def window_widths(largest: int, rows: int, tile_rows: int = TILE_ROWS, tree: DraftTree = NO_TREE) -> tuple[int, ...]:
    """The widths that a run may use, in ascending order: at most 5, the last one `largest`.

    `rows` are pictures × branches. Each width but the last fills, with the nodes of the tree, 1, 2, 4, … tiles of
    `tile_rows` rows, as far as `rows` divides them, and is at least 2 and what the tree needs.
    """
    tiles, least = (tile_rows << power for power in range(16)), max(2, tree.reach)
    widths = [width for width in dict.fromkeys(tile // rows - len(tree) for tile in tiles) if least <= width < largest]
    return *widths[: MOST_WIDTHS - 1], largest


class Policy(Protocol):
    """Chooses a width; see `AdaptiveWindow`."""

    @property
    def width(self) -> int: ...

    def record(self, accepted: Sequence[int], forwards: int, seconds: float | None) -> None: ...


class WidthBy(enum.Enum):
    """What the width of a window follows.

    SECONDS: on a GPU, the width that accepts the most tokens a second. Seconds differ from run to run, so it is for
    kernels that round a row alike at every width: then the picture does not depend on them. ACCEPT_LENGTH: the accept
    length, where rounding depends on the width, so that a seed draws the same picture every time. ONE_TILE: as many
    rows as a tile of the matmul has, where its time grows with the tiles. CPU: the accept length too, in widths that do
    not depend on the batch. CPU_SECONDS: as SECONDS, in widths from 1 on, since a matmul with quantised weights takes
    nearly as many times longer as it has rows.
    """

    SECONDS = enum.auto()
    ACCEPT_LENGTH = enum.auto()
    ONE_TILE = enum.auto()
    CPU = enum.auto()
    CPU_SECONDS = enum.auto()


class AdaptiveWindow:
    """The width of the next forward, one of `widths`; it changes in `record` only.

    Only `gumbel` adapts: its picture is the same at every width. With `sjd` and `coupled` other drafts give another
    picture, and a picture must not depend on the others in its batch, so their width is fixed.

    """

    def __init__(self, settings: DecodeSettings, pictures: int, by: WidthBy = WidthBy.CPU) -> None:
        largest, rows = settings.width, pictures * (2 if settings.guided else 1)
        tree = DraftTree.of(settings.tree or 0, largest)
        self._policy: Policy | None = None
        self.widths: tuple[int, ...] = (largest,)
        if not settings.adapt_window or settings.decoder != "gumbel":
            return
        if by is WidthBy.ONE_TILE:
            self.widths = (min(largest, max(2, tree.reach, TILE_ROWS // rows - len(tree))),)
            return
        if by is WidthBy.CPU_SECONDS:
            self.widths = (*(width for width in CPU_WIDTHS if tree.reach <= width < largest), largest)
            self._policy = BySpeed(self.widths, rows, CPU_FIRST_ROWS)
            return
        if by is WidthBy.CPU:
            self.widths = tuple(width for width in window_widths(largest, 1, LEAST_CPU_WIDTH) if width >= tree.reach)
        else:
            self.widths = window_widths(largest, rows, tree=tree)
        by_speed = by is WidthBy.SECONDS
        self._policy = BySpeed(self.widths, rows) if by_speed else ByAcceptLength(self.widths, pictures)

    @property
    def width(self) -> int:
        """Tokens of the next forward."""
        return self._policy.width if self._policy else self.widths[-1]

    def record(self, accepted: Sequence[int], forwards: int, seconds: float | None = None) -> None:
        """Tells what the `forwards` forwards since the last call accepted of each picture, 0 of a complete one.

        `seconds` is their wall time, or None where it includes a warm-up or a capture.
        """
        if self._policy and forwards > 0:
            self._policy.record(accepted, forwards, seconds)


class ByAcceptLength:
    """The width closest to a multiple of the accept length of recent forwards; the picture that accepts most decides.

    A wider window costs time, and drafts that wait long are worse than new ones; a narrower one costs forwards.
    """

    WIDTHS_PER_ACCEPTED, MARGIN = 4, 2
    INITIAL_ACCEPTED, DECAY = 4.0, 0.7

    def __init__(self, widths: tuple[int, ...], pictures: int) -> None:
        self._widths, self.recent = widths, [self.INITIAL_ACCEPTED] * pictures
        self.width = self._closest()

    def record(self, accepted: Sequence[int], forwards: int, seconds: float | None) -> None:
        kept = self.DECAY**forwards
        for picture, tokens in enumerate(accepted):
            self.recent[picture] = kept * self.recent[picture] + (1 - kept) * tokens / forwards
        self.width = self._closest()

    def _closest(self) -> int:
        wanted = self.WIDTHS_PER_ACCEPTED * max(self.recent) + self.MARGIN
        return min(self._widths, key=lambda width: abs(math.log(width / wanted)))


@dataclass
class _Width:
    """What is known of a width: seconds a forward, infinite where unknown, and how it differs from `accept_length`.

    `accepted` are tokens over those that were expected of the same forwards, `forwards` those forwards × pictures.
    `credit` is what its next trial may cost, in intervals.
    """

    width: int
    seconds: float = math.inf
    accepted: float = PRIOR_FORWARDS
    forwards: float = PRIOR_FORWARDS
    tried: bool = False
    credit: float = 0.0

    def tokens(self, unlimited: float) -> float:
        """Tokens that a forward is expected to accept of a picture; `unlimited` as in `accept_length`."""
        return min(self.width, accept_length(self.width, unlimited) * self.accepted / self.forwards)


class BySpeed:
    """The width with the most accepted tokens a second, from what was measured in this run.

    The width in use gives the level of both: how many tokens the picture allows now, and how long the context makes a
    forward. A trial of another width lasts a few intervals and measures it relative to that level. The list is climbed
    from the width in use: unknown neighbours are tried at once, known ones the more seldom the slower they were. A
    complete picture does not count; that changes the tokens of all widths alike.
    """

    def __init__(self, widths: tuple[int, ...], rows: int, first_rows: int = FIRST_ROWS) -> None:
        self._known = [_Width(width) for width in widths]
        self._used = min(range(len(widths)), key=lambda index: abs(math.log(widths[index] * rows / first_rows)))
        self._unlimited, self._intervals = 4.0, 0
        self._known[self._used].tried = True
        self._trial: _Trial | None = None

    @property
    def width(self) -> int:
        return self._known[self._used if self._trial is None else self._trial.index].width

    def record(self, accepted: Sequence[int], forwards: int, seconds: float | None) -> None:
        unfinished = [tokens for tokens in accepted if tokens > 0]
        if not unfinished:
            return
        tokens, samples = sum(unfinished) / len(unfinished) / forwards, forwards * len(unfinished)
        each = seconds / forwards if seconds else None
        if self._trial is None:
            self._follow(tokens, each)
        elif self._trial.add(tokens, samples, each):
            self._end_trial(self._trial)
        if self._trial is None:
            self._choose()
            self._begin_trial()

    def _follow(self, tokens: float, seconds: float | None) -> None:
        """Moves the level of all widths to what the width in use now does."""
        used = self._known[self._used]
        self._intervals += 1
        weight = max(RECENT, 1 / self._intervals)
        expected = used.tokens(self._unlimited)
        level = expected + weight * (tokens - expected)
        self._unlimited = unlimited_length(used.width, level * used.forwards / used.accepted)
        if seconds is None:
            return
        if used.seconds == math.inf:
            used.seconds = seconds
            return
        slower = 1 + weight * (min(seconds / used.seconds, MOST_SLOWDOWN) - 1)
        for known in self._known:
            known.seconds *= slower

    def _end_trial(self, trial: _Trial) -> None:
        known = self._known[trial.index]
        known.accepted += trial.tokens / accept_length(known.width, self._unlimited)
        known.forwards += trial.samples
        if trial.seconds:
            # The least: a pause makes an interval longer, and nothing makes it shorter.
            least = min(trial.seconds)
            known.seconds = least if known.seconds == math.inf else (known.seconds + min(least, 2 * known.seconds)) / 2
        known.tried, known.credit = True, 0.0
        self._trial = None

    def _speed(self, index: int) -> float:
        known = self._known[index]
        return known.tokens(self._unlimited) / known.seconds

    def _choose(self) -> None:
        best = max(range(len(self._known)), key=self._speed)
        if self._speed(best) > SWITCH_SPEED * self._speed(self._used):
            self._used = best

    def _begin_trial(self) -> None:
        if self._known[self._used].seconds == math.inf or self._intervals < TRIAL_INTERVALS:
            return
        neighbours = [index for index in (self._used + 1, self._used - 1) if 0 <= index < len(self._known)]
        for index in neighbours:
            if not self._known[index].tried:
                self._trial = _Trial(index, TRIAL_INTERVALS)
                return
        for index in neighbours:
            self._known[index].credit += RETRY_COST
            if self._known[index].credit >= self._cost(index):
                self._trial = _Trial(index, 1)
                return

    def _cost(self, index: int) -> float:
        """The time that an interval at this width loses, in intervals."""
        slower = self._speed(self._used) / max(self._speed(index), 1e-9) - 1
        return min(max(slower, LEAST_COST), MOST_COST)


class _Trial:
    """What intervals at a width that is not the one in use accepted, and their seconds a forward."""

    def __init__(self, index: int, intervals: int) -> None:
        self.index, self._wanted, self._intervals = index, intervals, 0
        self.tokens, self.samples = 0.0, 0
        self.seconds: list[float] = []

    def add(self, tokens: float, samples: int, seconds: float | None) -> bool:
        """Adds an interval of `samples` forwards × pictures; returns whether the trial is over."""
        self._intervals += 1
        self.tokens += tokens * samples
        self.samples += samples
        if seconds is not None:
            self.seconds.append(seconds)
        return len(self.seconds) >= self._wanted or self._intervals >= LONGEST_TRIAL


def accept_length(width: int, unlimited: float) -> float:
    """Tokens that a forward of `gumbel` accepts on average, where an endless window would accept `unlimited`.

    A fit: a window lets a draft be revised for width / accepted forwards, so narrow ones accept some √width tokens,
    and more where most drafts are right at once. At `unlimited` 3.65 it is within 6 % of the simulated law of 4.4 nats
    in docs/decoders.md: 1.4, 1.95, 2.6, 3.4, 3.5 tokens at widths 2, 4, 8, 16, 32.
    """
    power = min(1.0, 0.5 + 0.1 * math.log2(max(1.0, unlimited / 3.6)))
    return max(1.0, (width ** (-4 * power) + unlimited**-4) ** -0.25)


def unlimited_length(width: int, accepted: float) -> float:
    """The `unlimited` for which `accept_length` is `accepted`, between 1 and 256."""
    low, high = 0.0, 8.0
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if accept_length(width, 2**middle) < accepted else (low, middle)
    return 2**low
