"""The width of the next forward, adapted to the tokens that recent forwards accepted."""

import math
from collections.abc import Sequence

from .settings import DecodeSettings

# A wider window costs time, and drafts that wait long are worse than fresh ones; a narrower one costs forwards.
WIDTHS_PER_ACCEPTED, MARGIN = 4, 2
WIDTH_STEP = 8
INITIAL_ACCEPTED, DECAY = 4.0, 0.7


class AdaptiveWindow:
    """A width proportional to the recent accept length, in steps of `WIDTH_STEP`, at most the window size.

    Only `gumbel` adapts: its picture is the same at every width. With `sjd` and `coupled` other drafts give another
    picture, and a picture must not depend on the others in its batch, so their width is fixed.
    """

    def __init__(self, settings: DecodeSettings, pictures: int):
        self.largest = settings.width
        self.adapts = settings.adapt_window and settings.decoder == "gumbel"
        self.recent = [INITIAL_ACCEPTED] * pictures

    def record(self, accepted: Sequence[int], forwards: int) -> None:
        """Averages the tokens that each picture accepted in the last `forwards` forwards."""
        kept = DECAY**forwards
        for picture, tokens in enumerate(accepted):
            self.recent[picture] = kept * self.recent[picture] + (1 - kept) * tokens / forwards

    @property
    def width(self) -> int:
        """Tokens of the next forward."""
        if not self.adapts:
            return self.largest
        wanted = WIDTHS_PER_ACCEPTED * max(self.recent) + MARGIN
        return min(self.largest, math.ceil(wanted / WIDTH_STEP) * WIDTH_STEP)
