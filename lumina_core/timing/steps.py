"""How long a decoding step takes, and how near that is to what the bytes it reads allow."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ..decoding.canvas import Canvas
from ..decoding.cuda_graph import make_steps
from ..decoding.loop import cache_length, forwards_per_sync, read_length
from ..decoding.settings import DecodeSettings
from ..decoding.window import Window
from ..model.kv_cache import KVCache
from ..model.load import weight_bytes
from ..model.make_cache import new_cache
from ..model.transformer import Transformer

COPY_BYTES = {"cpu": 2**26, "cuda": 2**30}
COPIES = 5
# Steps that may each set something up: one as it is, one to be captured.
SETTING_UP = 2
PROMPT_TOKENS = 64
# A picture of 768×768, in codes.
CANVAS_SIDE = 96
# Tokens that a forward of `gumbel` is assumed to accept, by its window. Not measured on the 7B: it is what a made-up
# law of 4.4 nats a code gives, on which `sjd` and `coupled` need as many forwards as published for Lumina-mGPT.
ACCEPTED = {1: 1.0, 8: 2.6, 16: 3.4, 24: 3.5, 32: 3.5, 64: 3.6}
ACCEPTED_FROM = "assumed: decoder gumbel on a made-up law of 4.4 nats a code, not measured on this model"


@dataclass(frozen=True)
class StepTime:
    """Seconds a step at a window and context; `ceiling` is the least that reading its bytes takes, `first` what the
    first steps took, with all that is set up in them.

    `kv_len` is the bound of the cache's positions that the step was given, `captured` whether it was a replay.
    """

    window: int
    context: int
    seconds: float
    ceiling: float
    first: float
    kv_len: int = 0
    captured: bool = False

    @property
    def share(self) -> float:
        """How much of the ceiling's speed is reached."""
        return self.ceiling / self.seconds

    def tokens_per_second(self, accepted: float) -> float:
        """Of one picture, `accepted` of them a step."""
        return accepted / self.seconds


def accepted_by(window: int) -> float:
    """Tokens a step that a window is assumed to accept at least (see `ACCEPTED`)."""
    return ACCEPTED[max(known for known in ACCEPTED if known <= window)]


def canvas_reaching(context: int, window: int) -> Canvas:
    """The picture in which a step is timed: 768×768, or with more rows where it ends before the window."""
    tokens = context - PROMPT_TOKENS + window
    return Canvas(max(CANVAS_SIDE, tokens // (CANVAS_SIDE + 1) + 1), CANVAS_SIDE)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written, of copying on a device."""
    source = torch.ones(COPY_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    best = min(timed(lambda: target.copy_(source), device) for _ in range(COPIES))
    return 2 * source.nbytes / best


class PlacedSteps:
    """Steps of a window, each at the same place: after `context` tokens."""

    def __init__(self, window: Window, context: int):
        self.width, self._window = window.width, window
        index = context - PROMPT_TOKENS
        self._place = torch.full_like(window.pos, index)
        # The last forward before a synchronisation has the loosest bound.
        since_sync = forwards_per_sync(window.transformer.device) - 1
        self.kv_len = read_length(window, PROMPT_TOKENS, index, since_sync, window.width)
        self._steps = make_steps(window)

    @property
    def captured(self) -> bool:
        """Whether the last step was a replay."""
        return self._steps.captured

    @torch.inference_mode()
    def run(self, count: int) -> None:
        for _ in range(count):
            self._window.pos.copy_(self._place)
            self._steps(self.kv_len, self.width)


class StepTimer:
    """Steps of one guided picture at any context, on one cache of the size that drawing the picture takes."""

    def __init__(
        self,
        transformer: Transformer,
        longest: int,
        widest: int,
        settings: DecodeSettings,
        canvas: Canvas | None = None,
    ):
        self.transformer, self.settings = transformer, replace(settings, window_size=widest)
        self.rows = 2 if settings.guided else 1
        self.canvas = canvas_reaching(longest, widest) if canvas is None else canvas
        length = cache_length(self.canvas, PROMPT_TOKENS, self.settings)
        self.cache = new_cache(transformer, self.rows, length, settings.kv_cache, widest)

    def steps_at(self, window: int, context: int) -> PlacedSteps:
        """Steps of `window` tokens after `context`; the first `SETTING_UP` of them set up."""
        settings = replace(self.settings, window_size=window)
        return PlacedSteps(Window(self.transformer, self.canvas, self.cache, [PROMPT_TOKENS], settings, 0), context)

    def measure(self, window: int, context: int, steps: int, bandwidth: float) -> StepTime:
        """The mean of some steps, after those that set up."""
        placed, device = self.steps_at(window, context), self.transformer.device
        first = timed(lambda: placed.run(SETTING_UP), device)
        seconds = timed(lambda: placed.run(steps), device) / steps
        ceiling = self.bytes_of(context) / bandwidth
        return StepTime(window, context, seconds, ceiling, first, placed.kv_len, placed.captured)

    def bytes_of(self, context: int) -> int:
        """Bytes that a step cannot but read: weights of blocks and head, and the cache."""
        transformer = self.transformer
        weights = weight_bytes(transformer, transformer.dtype) - transformer.code_embedding.weight.nbytes
        kv_cache = self.settings.kv_cache
        return weights + KVCache.bytes_needed(transformer.config, self.rows, context, transformer.dtype, kv_cache)


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds that a call takes until the device is done."""
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
