"""Times decoding steps and compares them with the ceiling by memory bandwidth (roofline)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..decoding.canvas import Canvas
from ..decoding.cuda_graph import CaptureLog, make_steps
from ..decoding.forward_bytes import kernels_expected
from ..decoding.loop import cache_length, forwards_per_sync, read_length
from ..decoding.settings import DecodeSettings
from ..decoding.window import Window
from ..device import synchronize
from ..model.kv_cache import KVCache
from ..model.load import weight_bytes
from ..model.transformer import Transformer

# Of the copy that shows the bandwidth, by device: more than its caches hold.
COPY_BYTES = {"cpu": 2**26, "cuda": 2**30}
OTHER_COPY_BYTES = 2**28
COPIES = 5
# Steps before the timing starts: the first runs eagerly, the second captures the CUDA graph.
WARM_UP_STEPS = 2
PROMPT_TOKENS = 64
# Codes per side of a picture of 768×768.
CANVAS_SIDE = 96
# Assumed number of tokens that a forward of `gumbel` accepts, by nodes of the draft tree and by window. Not measured on
# the 7B: it is the result for a constructed distribution of 4.6 nats per code, on which `sjd` and `coupled` need the
# forwards published for Lumina-mGPT (benchmarks/decoders.py).
ACCEPTED = {
    0: {1: 1.0, 8: 2.5, 16: 3.1, 32: 3.5, 64: 3.5},
    16: {8: 3.1, 16: 3.9, 32: 4.3, 64: 4.5},
    32: {8: 3.2, 16: 4.1, 32: 4.5, 64: 4.5},
    64: {8: 3.3, 16: 4.3, 32: 4.7, 64: 4.8},
}
ACCEPTED_FROM = "assumed: decoder gumbel on a constructed distribution of 4.6 nats per code, not measured on this model"


@dataclass(frozen=True)
class StepTime:
    """The time of a step at a window and context.

    `tree` are the nodes of its draft tree. `seconds` is the mean of the timed steps, `first` the time of all warm-up
    steps together. `ceiling` is the time
    that reading the bytes of a step takes at full memory bandwidth. `kv_len` is the number of cache positions that the
    step reads. `captured` says whether the step is a CUDA graph replay.
    """

    window: int
    context: int
    seconds: float
    ceiling: float
    first: float
    kv_len: int = 0
    captured: bool = False
    tree: int = 0

    @property
    def share(self) -> float:
        """The speed reached, as a fraction of the ceiling."""
        return self.ceiling / self.seconds

    @property
    def accepted(self) -> float:
        """Tokens that the step is assumed to accept: ACCEPTED of the largest listed tree and window up to its own."""
        by_window = ACCEPTED[max(tree for tree in ACCEPTED if tree <= self.tree and min(ACCEPTED[tree]) <= self.window)]
        return by_window[max(window for window in by_window if window <= self.window)]

    @property
    def tokens_per_second(self) -> float:
        """Speed of one picture, at `accepted` tokens per step."""
        return self.accepted / self.seconds


def canvas_reaching(context: int, window: int) -> Canvas:
    """The picture of the timed steps: 768×768, with more rows where the window would pass its end."""
    tokens = context - PROMPT_TOKENS + window
    return Canvas(max(CANVAS_SIDE, tokens // (CANVAS_SIDE + 1) + 1), CANVAS_SIDE)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written per second by a copy on the device, the best of COPIES runs."""
    source = torch.ones(COPY_BYTES.get(device.type, OTHER_COPY_BYTES) // 4, device=device)
    target = torch.empty_like(source)
    best = min(timed(lambda: target.copy_(source), device) for _ in range(COPIES))
    return 2 * source.nbytes / best


class RepeatedStep:
    """One step of a window, repeated at the same position: after `context` tokens."""

    def __init__(self, window: Window, context: int):
        self.width, self._window = window.width, window
        index = context - PROMPT_TOKENS
        self._pos = torch.full_like(window.pos, index)
        # The last forward before a sync reads the most positions.
        since_sync = forwards_per_sync(window.transformer.device) - 1
        self.kv_len = read_length(window, PROMPT_TOKENS, index, since_sync, window.width)
        self._steps = make_steps(window, CaptureLog())

    @property
    def captured(self) -> bool:
        """Whether the last step was a CUDA graph replay."""
        return self._steps.captured

    @torch.inference_mode()
    def run(self, count: int) -> None:
        """Runs the step `count` times without a sync."""
        for _ in range(count):
            self._window.pos.copy_(self._pos)
            self._steps(self.kv_len, self.width)


class StepTimer:
    """Times steps of one picture at any window and context, with one cache of the size that the picture needs."""

    def __init__(
        self,
        transformer: Transformer,
        longest: int,
        widest: int,
        settings: DecodeSettings,
        canvas: Canvas | None = None,
    ):
        self.transformer, self.rows = transformer, 2 if settings.guided else 1
        by_kernels = kernels_expected(transformer.config, transformer.dtype, transformer.device)
        self.settings = settings.at_window(widest).with_tree(self.rows, by_kernels)
        self.canvas = canvas_reaching(longest, widest) if canvas is None else canvas
        length = cache_length(self.canvas, PROMPT_TOKENS, self.settings)
        sampling = self.settings.sampling(transformer.config.codebook_size)
        kernels = transformer.choose_kernels(sampling, settings.kv_cache, widest, length)
        self.cache = transformer.make_cache(self.rows, length, settings.kv_cache, kernels)

    def step_at(self, window: int, context: int) -> RepeatedStep:
        """The step of `window` tokens after `context` tokens. Its first WARM_UP_STEPS runs are warm-up."""
        settings = self.settings.at_window(window)
        placed = Window(self.transformer, self.canvas, self.cache, 1, settings)
        codes = torch.zeros(1, self.canvas.grid_h, self.canvas.grid_w, dtype=torch.int64)
        placed.place(self.canvas, [PROMPT_TOKENS], codes, codes == 0, settings.seed, 0)
        return RepeatedStep(placed, context)

    def measure(self, window: int, context: int, steps: int, bandwidth: float) -> StepTime:
        """The mean time of `steps` steps after the warm-up; `bandwidth` in bytes per second sets the ceiling."""
        step, device = self.step_at(window, context), self.transformer.device
        first = timed(lambda: step.run(WARM_UP_STEPS), device)
        seconds = timed(lambda: step.run(steps), device) / steps
        ceiling = self.bytes_read(context) / bandwidth
        tree = self.settings.at_window(window).nodes
        return StepTime(window, context, seconds, ceiling, first, step.kv_len, step.captured, tree)

    def bytes_read(self, context: int) -> int:
        """Bytes that every step reads: the weights of blocks and head, and the cache."""
        transformer = self.transformer
        weights = weight_bytes(transformer, transformer.dtype) - transformer.code_embedding.weight.nbytes
        kv_cache = self.settings.kv_cache
        return weights + KVCache.bytes_needed(transformer.config, self.rows, context, transformer.dtype, kv_cache)


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, until the device has finished its work."""
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start
