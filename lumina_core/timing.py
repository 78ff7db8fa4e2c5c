"""How long a decoding step takes, and how near that is to what the bytes it reads allow."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from .decoding import Canvas, DecodeSettings
from .decoding.decode import KV_LEN_STEP
from .decoding.steps import make_steps
from .decoding.window import SAME_ROUNDING_ROWS, Window
from .model import KVCache, Transformer, new_cache
from .model.load import weight_bytes

COPY_BYTES = {"cpu": 2**26, "cuda": 2**30}
COPIES = 5
# Steps that may each set something up: one as it is, one to be captured.
SETTING_UP = 2
PROMPT_TOKENS = 64
CANVAS_WIDTH = 96
# Tokens that a forward of `gumbel` settles, measured on the demo (benchmarks/RESULTS.md) up to a window of 32; no more
# are claimed of a wider one.
ACCEPTED = {1: 1.0, 8: 4.37, 16: 5.63, 32: 6.04}


@dataclass(frozen=True)
class StepTime:
    """Seconds a step at a window and context; `ceiling` is the least that reading its bytes takes, `first` what the
    first steps took, with all that is set up in them.
    """

    window: int
    context: int
    seconds: float
    ceiling: float
    first: float

    @property
    def share(self) -> float:
        """How much of the ceiling's speed is reached."""
        return self.ceiling / self.seconds

    def tokens_per_second(self, accepted: float) -> float:
        """Of one picture, `accepted` of them a step."""
        return accepted / self.seconds


def accepted_by(window: int) -> float:
    """Tokens a step that a window is known to settle at least."""
    return ACCEPTED[max(known for known in ACCEPTED if known <= window)]


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written, of copying on a device."""
    source = torch.ones(COPY_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    best = min(timed(lambda: target.copy_(source), device) for _ in range(COPIES))
    return 2 * source.nbytes / best


class StepTimer:
    """Steps of one guided picture at any context, on one cache."""

    def __init__(self, transformer: Transformer, longest: int, widest: int, settings: DecodeSettings):
        self.transformer, self.settings = transformer, settings
        self.rows = 2 if settings.guided else 1
        length = _whole_steps(longest + 2 * max(widest, SAME_ROUNDING_ROWS))
        self.cache = new_cache(transformer, self.rows, length, settings.kv_cache, widest)
        self.canvas = Canvas(-(-length // (CANVAS_WIDTH + 1)) + 2, CANVAS_WIDTH)
        self.end_of_row = transformer.embed(torch.zeros(1, dtype=torch.int64))

    @torch.inference_mode()
    def measure(self, window: int, context: int, steps: int, bandwidth: float) -> StepTime:
        """The mean of some steps, each at the same place, behind one that sets up."""
        settings = replace(self.settings, window_size=window)
        moving = Window(self.transformer, self.canvas, self.cache, [PROMPT_TOKENS], settings)
        place = torch.full_like(moving.pos, context - PROMPT_TOKENS)
        kv_len = _whole_steps(context + moving.slots_run(window))
        steps_of, device = make_steps(moving), self.transformer.device

        def run(count: int) -> None:
            for _ in range(count):
                moving.pos.copy_(place)
                steps_of(self.end_of_row, kv_len, window)

        first = timed(lambda: run(SETTING_UP), device)
        seconds = timed(lambda: run(steps), device) / steps
        return StepTime(window, context, seconds, self.bytes_of(context) / bandwidth, first)

    def bytes_of(self, context: int) -> int:
        """Bytes that a step cannot but read: weights of blocks and head, and the cache."""
        transformer = self.transformer
        weights = weight_bytes(transformer, transformer.dtype) - transformer.code_embedding.weight.nbytes
        kv_cache = self.settings.kv_cache
        return weights + KVCache.bytes_needed(transformer.config, self.rows, context, transformer.dtype, kv_cache)


def _whole_steps(length: int) -> int:
    """The length of cache that drawing would read."""
    return -(-length // KV_LEN_STEP) * KV_LEN_STEP


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
