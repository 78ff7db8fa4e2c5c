"""The decoding loop: reads the prompts, then moves the window until every picture is finished."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import Cancelled, InputError
from ..kernels.select import retry_failed
from ..model.make_cache import new_cache
from ..model.transformer import Transformer
from .adaptive_window import Pace
from .canvas import Canvas
from .cuda_graph import make_steps
from .settings import DecodeResult, DecodeSettings, StepReport
from .window import Window

# How many forwards a device runs before the host looks how far they got: a look makes it wait.
STEPS_BETWEEN_LOOKS = 8
# By how much the part of the cache that is read grows; on a GPU each length is a step of its own to capture.
KV_LEN_STEP, GPU_KV_LEN_STEP = 64, 512


@dataclass(frozen=True)
class Prefix:
    """The tokens in front of what is drawn in one picture.

    `text_ids` is the prompt, `picture_ids` the picture's header and given rows, which the unconditional branch keeps.
    """

    text_ids: tuple[int, ...]
    picture_ids: tuple[int, ...]


def check_window(canvas: Canvas, settings: DecodeSettings) -> None:
    """Raises InputError when the window is larger than what is left to draw."""
    if settings.width > canvas.tokens_to_draw:
        raise InputError(
            f"window is {settings.window_size}; expected at most {canvas.tokens_to_draw}, the tokens that are left to "
            "draw in this picture"
        )


def cache_length(canvas: Canvas, longest_text: int, settings: DecodeSettings) -> int:
    """Positions that the key/value cache of a run has in each row."""
    needed = longest_text + canvas.last + max(settings.width, KV_LEN_STEP)
    return -(-needed // KV_LEN_STEP) * KV_LEN_STEP


def steps_between_looks(device: torch.device) -> int:
    """How many forwards run before the host looks how far they got."""
    return 1 if device.type == "cpu" else STEPS_BETWEEN_LOOKS


def read_length(window: Window, longest_text: int, settled_to: int, since_look: int, width: int) -> int:
    """Positions of the cache that a forward of `width` tokens reads: a bound, known without asking the device.

    `settled_to` is the furthest index that the host knows to be accepted, `since_look` the forwards that ran since. All
    of the cache where a kernel reads no more than what is filled, so that one captured step serves all along.
    """
    cache = window.cache
    if cache.window_attention is not None:
        return cache.length
    furthest = min(settled_to + since_look * window.width, window.canvas.last)
    needed = longest_text + furthest + window.slots_run(width)
    step = KV_LEN_STEP if window.transformer.device.type == "cpu" else GPU_KV_LEN_STEP
    return min(-(-needed // step) * step, cache.length)


@torch.inference_mode()
def decode(
    transformer: Transformer,
    canvas: Canvas,
    prefixes: Sequence[Prefix],
    given_codes: Tensor,
    end_of_row: int,
    settings: DecodeSettings,
    on_step: Callable[[StepReport], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> DecodeResult:
    """Draws one picture for each prefix, all in one batch; picture k has the seed `settings.seed` + k.

    `given_codes` [N,given_rows,w] are the codes in the prefixes, `end_of_row` the id of that token. `should_cancel` is
    asked before every forward and raises Cancelled by saying so; `on_step` is told every few forwards how far it is.
    Raises InputError for a window that does not fit.
    """
    check_window(canvas, settings)
    start = time.perf_counter()
    run = _Run(transformer, canvas, prefixes, given_codes, settings)
    run.prefill(prefixes)
    end_of_row_embedding = transformer.embed(torch.tensor([end_of_row]))
    while not run.finished:
        if should_cancel is not None and should_cancel():
            raise Cancelled(f"cancelled after {run.nfe} forwards")
        run.advance(end_of_row_embedding)
        if run.looked and on_step is not None:
            on_step(run.report())
    return run.result(time.perf_counter() - start)


class _Run:
    """A window, and what the host knows of it: how far each picture is (`settled_to`), and since how many forwards."""

    def __init__(
        self,
        transformer: Transformer,
        canvas: Canvas,
        prefixes: Sequence[Prefix],
        given_codes: Tensor,
        settings: DecodeSettings,
    ):
        retry_failed()
        self.transformer, self.canvas, self.settings = transformer, canvas, settings
        self.text_lengths = [len(prefix.text_ids) for prefix in prefixes]
        rows = len(prefixes) * (2 if settings.guided else 1)
        length = cache_length(canvas, max(self.text_lengths), settings)
        self.cache = new_cache(transformer, rows, length, settings.kv_cache, settings.width)
        self.window = Window(transformer, canvas, self.cache, self.text_lengths, settings)
        self.window.tokens.copy_(canvas.place_codes(given_codes, self.window.length))
        self.steps = make_steps(self.window)
        self.steps_between_looks = steps_between_looks(transformer.device)
        self.pace = Pace(settings, len(prefixes))
        self.nfe, self.since_look = 0, 0
        self.settled_to = [canvas.first - 1] * len(prefixes)
        self.accepted: list[Tensor] = []

    @property
    def finished(self) -> bool:
        return min(self.settled_to) == self.canvas.last

    @property
    def looked(self) -> bool:
        return self.since_look == 0

    def prefill(self, prefixes: Sequence[Prefix]) -> None:
        """Reads every different sequence once, and draws each picture's first token."""
        sequences = [prefix.text_ids + prefix.picture_ids for prefix in prefixes]
        if self.settings.guided:
            sequences += [prefix.picture_ids for prefix in prefixes]
        hidden: list[Tensor] = []
        first_row: dict[tuple[int, ...], int] = {}
        for row, ids in enumerate(sequences):
            twin = first_row.setdefault(ids, row)
            if twin < row:
                self.cache.copy_row(twin, row, len(ids))
                hidden.append(hidden[twin])
            else:
                embedded = self.transformer.embed(torch.tensor([ids]))
                hidden.append(self.transformer.hidden_states(embedded, self.cache.prefill_plan(row, len(ids)))[0, -1])
        self.window.begin(torch.stack(hidden))
        self.settled_to = self.window.pos.tolist()

    def advance(self, end_of_row_embedding: Tensor) -> None:
        """One forward, and a look at the device when it is time for one."""
        # One more than what is left, so that the last token's draft plays its part in every picture, whoever is behind.
        width = min(self.pace.width, self.canvas.last - min(self.settled_to) + 1)
        kv_len = read_length(self.window, max(self.text_lengths), max(self.settled_to), self.since_look, width)
        self.accepted.append(self.steps(end_of_row_embedding, kv_len, width))
        self.nfe += 1
        self.since_look += 1
        if self.since_look == self.steps_between_looks:
            self._look()

    def report(self) -> StepReport:
        canvas = self.canvas
        settled = tuple(canvas.count_codes(index + 1) for index in self.settled_to)
        return StepReport(canvas.cut_codes(self.window.tokens).cpu(), settled, canvas.codes_to_draw, self.nfe)

    def result(self, seconds: float) -> DecodeResult:
        accepted = torch.stack(self.accepted, 1).cpu() if self.accepted else torch.zeros(len(self.settled_to), 0)
        lengths = tuple(tuple(int(n) for n in picture if n) for picture in accepted)
        return DecodeResult(
            codes=self.canvas.cut_codes(self.window.tokens).cpu().clone(),
            nfe=max(map(len, lengths)),
            accept_lengths=lengths,
            settled_step=self.canvas.cut_codes(self.window.settled_step).cpu().clone(),
            log_likelihood=tuple(self.canvas.cut_codes(self.window.log_probs).cpu().double().sum((1, 2)).tolist()),
            seconds=seconds,
            warm_up_seconds=self.steps.warm_up_seconds,
            settings=self.settings,
            matmul_kernel=self.transformer.matmul_kernel,
            attention_kernel=self.cache.attention_kernel,
        )

    def _look(self) -> None:
        before, self.settled_to = self.settled_to, self.window.pos.tolist()
        self.pace.record([now - then for then, now in zip(before, self.settled_to, strict=True)], self.since_look)
        self.since_look = 0
