"""How wide the next forward is: a window that adapts to what the pictures settle."""

import math
from collections.abc import Sequence

from .settings import DecodeSettings

# Wider costs time, and drafts that wait long are worse than fresh ones; narrower costs forwards (see benchmarks/).
AHEAD, ROOM = 4, 2
WIDTH_STEP = 8
START, MEMORY = 4.0, 0.7


class Pace:
    """A width of some times what a forward lately settled, in steps of `WIDTH_STEP`, up to the window's W.

    For `gumbel` alone, whose picture is the same at every width. `sjd` and `coupled` draw another picture when their
    drafts are others, and a picture must not depend on those that share its batch: they stay at W.
    """

    def __init__(self, settings: DecodeSettings, pictures: int):
        self.largest = settings.width
        self.adapts = settings.adapt_window and settings.decoder == "gumbel"
        self.recent = [START] * pictures

    def record(self, settled: Sequence[int], forwards: int) -> None:
        """Each picture has settled so many tokens in the last `forwards` forwards."""
        kept = MEMORY**forwards
        for picture, tokens in enumerate(settled):
            self.recent[picture] = kept * self.recent[picture] + (1 - kept) * tokens / forwards

    @property
    def width(self) -> int:
        """Tokens that the next forward should look at."""
        if not self.adapts:
            return self.largest
        wanted = AHEAD * max(self.recent) + ROOM
        return min(self.largest, math.ceil(wanted / WIDTH_STEP) * WIDTH_STEP)
