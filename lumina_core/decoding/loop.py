"""The decoding loop: prefill, then one forward after another until every picture is complete."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..host.threads import threads_for
from ..model.transformer import Transformer
from ..pictures.sizes import HEADER_LENGTH
from ..tokens.vocabulary import Vocabulary
from .adaptive_window import AdaptiveWindow, WidthBy
from .canvas import Canvas
from .cuda_graph import make_steps
from .forward_bytes import kernels_expected
from .kept_runs import Kept, KeptRuns, RunShape
from .request import Request
from .settings import DecodeResult, DecodeSettings, StepReport
from .window import Window

# Forwards between two synchronisations with the device, each of which makes the host wait.
FORWARDS_PER_SYNC = 8
# The part of the cache that is read grows in these steps.
KV_LEN_STEP = 64
# On a GPU without the attention kernel each length is a graph of its own: this one, then a half more or a third more in
# turn, so that there are few.
FIRST_GPU_KV_LEN = 512

OnStep = Callable[[StepReport], None]


@torch.inference_mode()
def decode(
    transformer: Transformer,
    vocabulary: Vocabulary,
    request: Request,
    on_step: OnStep | None = None,
    before_forward: Callable[[], object] | None = None,
    runs: KeptRuns | None = None,
) -> DecodeResult:
    """Draws a request's pictures in one batch.

    `before_forward` is called before every forward, in the prefill before every block; `on_step` after every
    synchronisation with the device: after every forward on a CPU, every few on a GPU. An exception that either raises
    ends the run; what is drawn is in the last report. `runs` keeps graphs, and the cache that they read, from one run
    of a model to the next. Raises CheckpointError when the model computes values that are not finite.
    """
    request = request.with_tree(kernels_expected(transformer.config, transformer.dtype, transformer.device))
    with threads_for(request.rows * request.settings.slots * transformer.multiplications, transformer.device):
        return _decode(transformer, vocabulary, request, on_step, before_forward, KeptRuns() if runs is None else runs)


def _decode(
    transformer: Transformer,
    vocabulary: Vocabulary,
    request: Request,
    on_step: OnStep | None,
    before_forward: Callable[[], object] | None,
    runs: KeptRuns,
) -> DecodeResult:
    start = time.perf_counter()
    run = _Run(transformer, vocabulary, request, runs)
    try:
        run.prefill(before_forward)
        while not run.finished:
            if before_forward is not None:
                before_forward()
            run.advance()
            if on_step is not None and run.since_sync == 0:
                on_step(run.report())
        result = run.result(time.perf_counter() - start)
    except (RuntimeError, MemoryError):  # the device may have failed, and what is on it with it
        raise
    except BaseException:
        runs.keep(run.kept)
        raise
    runs.keep(run.kept)
    return result


def cache_length(canvas: Canvas, longest_prompt: int, settings: DecodeSettings) -> int:
    """Positions of the key/value cache of a run, in each row."""
    needed = longest_prompt + canvas.last + max(settings.width, KV_LEN_STEP) + settings.nodes
    return -(-needed // KV_LEN_STEP) * KV_LEN_STEP


def is_gpu(device: torch.device) -> bool:
    """Whether forwards run beside the host, and each width and length of them is worth a graph of its own."""
    return device.type != "cpu"


def forwards_per_sync(device: torch.device) -> int:
    """Forwards that run before the host reads how many tokens were accepted."""
    return FORWARDS_PER_SYNC if is_gpu(device) else 1


def read_length(window: Window, longest_prompt: int, accepted_to: int, since_sync: int, width: int) -> int:
    """Positions of the cache that a forward of `width` tokens reads: an upper bound that the host knows.

    `accepted_to` is the largest index known to be accepted, `since_sync` the forwards that ran since. It is the whole
    cache where a kernel reads only the filled part, so that one captured step serves the whole run.
    """
    cache = window.cache
    if cache.kernels.attention.is_kernel:
        return cache.length
    furthest = min(accepted_to + since_sync * window.width, window.canvas.last)
    needed = longest_prompt + furthest + window.slots_run(width)
    if not is_gpu(window.transformer.device):
        return min(-(-needed // KV_LEN_STEP) * KV_LEN_STEP, cache.length)
    length, larger = FIRST_GPU_KV_LEN, FIRST_GPU_KV_LEN * 3 // 2
    while length < needed:
        length, larger = larger, 2 * length
    return min(length, cache.length)


class _Run:
    """A window and what the host knows of it: `accepted_to` of each picture, as of `since_sync` forwards ago."""

    def __init__(self, transformer: Transformer, vocabulary: Vocabulary, request: Request, runs: KeptRuns):
        start = time.perf_counter()
        self.transformer, self.vocabulary, self.request = transformer, vocabulary, request
        self.canvas, self.settings = request.canvas, request.settings
        self.kept = self._take(runs)
        self.window, self.steps, self.cache = self.kept.window, self.kept.steps, self.kept.window.cache
        prompt_lengths = [len(prompt) for prompt in request.row_prompts]
        codes, seed = (request.codes, request.drawn), self.settings.seed
        self.window.place(self.canvas, prompt_lengths, *codes, seed, vocabulary.end_of_row)
        self.steps.begin_run()
        self.on_gpu, pictures = is_gpu(transformer.device), len(request.prompts)
        self.adaptive = AdaptiveWindow(self.settings, pictures, self._width_by())
        self.nfe, self.since_sync, self.last = 0, 0, request.last
        self.accepted_to = [self.canvas.first - 1] * pictures
        # On a GPU kernels are compiled and tested here in the first run of a process.
        self.set_up_seconds = time.perf_counter() - start if self.on_gpu else 0.0
        self._synced_at = self._now()

    def _width_by(self) -> WidthBy:
        """How the window adapts: by seconds only where every width draws the same, bit for bit."""
        backends, alike = self.transformer.backends, self.transformer.rounds_alike
        if not self.on_gpu:
            return WidthBy.CPU_SECONDS if alike else WidthBy.CPU
        if self.window.kernels.blocks is not None and alike:
            return WidthBy.SECONDS
        return WidthBy.ONE_TILE if any(one is not None and one.tile_rows for one in backends) else WidthBy.ACCEPT_LENGTH

    def _take(self, runs: KeptRuns) -> Kept:
        """What an earlier run left, or a new window and its steps."""
        transformer, settings = self.transformer, self.settings
        pictures = len(self.request.prompts)
        length = cache_length(self.canvas, self.request.longest_prompt, settings)
        sampling = settings.sampling(transformer.config.codebook_size)
        kernels = transformer.choose_kernels(sampling, settings.kv_cache, settings.width, length)
        shape = RunShape.of(self.request, transformer.loras)
        if (kept := runs.take(shape, kernels, length)) is not None:
            return kept
        cache = transformer.make_cache(self.request.rows, length, settings.kv_cache, kernels)
        window = Window(transformer, self.canvas, cache, pictures, settings)
        return Kept(shape, window, make_steps(window, runs.log))

    @property
    def warm_up_seconds(self) -> float:
        """Seconds spent on compiling and testing kernels, and on capturing steps."""
        return self.set_up_seconds + self.steps.warm_up_seconds

    @property
    def finished(self) -> bool:
        return min(self.accepted_to) >= self.last

    def prefill(self, before_block: Callable[[], object] | None = None) -> None:
        """Reads every different token sequence once and draws each picture's first token.

        Raises CheckpointError when a token has an embedding of zeros, so that the model would not see it, and when a
        state or the first token's probability is not finite.
        """
        callback = () if before_block is None else (before_block,)
        hidden: list[Tensor] = []
        first_row: dict[tuple[int, ...], int] = {}
        for row, ids in enumerate(self._prefixes()):
            same = first_row.setdefault(ids, row)
            if same < row:
                self.cache.copy_row(same, row, len(ids))
                hidden.append(hidden[same])
            else:
                self._check_embeddings(ids)
                embedded, plan = self.transformer.embed(torch.tensor([ids])), self.cache.prefill_plan(row, len(ids))
                hidden.append(self.transformer.hidden_states(embedded, plan, *callback)[0, -1])
        self._check_finite(states := torch.stack(hidden))
        self.window.begin(states)
        self._check_finite(self.window.state.log_probs[:, self.canvas.first])
        self.accepted_to = self.window.pos.tolist()
        self._synced_at = self._now()

    def _check_embeddings(self, ids: tuple[int, ...]) -> None:
        different = sorted(set(ids))
        rows = self.transformer.text_embedding[different]
        if unseen := (~rows.any(-1)).nonzero().flatten().tolist():
            raise CheckpointError(
                f"the embedding of the token {different[unseen[0]]} holds only zeros; the checkpoint is damaged: "
                "download it again"
            )

    def _prefixes(self) -> list[tuple[int, ...]]:
        """The tokens before what is drawn, row by row; the unconditional branch has the negative prompt, or none."""
        canvas, prompts = self.canvas, self.request.row_prompts
        header, tokens = self.vocabulary.header(canvas.grid_h, canvas.grid_w), canvas.first - HEADER_LENGTH
        given = [(*header, *self.vocabulary.row_tokens(codes)[:tokens]) for codes in self.request.codes]
        return [(*prompt, *ids) for prompt, ids in zip(prompts, given * (len(prompts) // len(given)), strict=True)]

    def advance(self) -> None:
        """Runs one forward, and synchronises with the device when it is time to."""
        # One more than what is left, so that the last token's draft takes part in every picture of the batch; on a GPU
        # the next listed width, so that there are few graphs.
        left = self.last - min(self.accepted_to) + 1
        if self.on_gpu:
            left = next((width for width in self.adaptive.widths if width >= left), left)
        # On a GPU the widest first: it allocates the buffers of all.
        wanted = self.adaptive.widths[-1] if self.on_gpu and not self.nfe else self.adaptive.width
        width = max(min(wanted, left), self.window.state.tree.reach)
        longest, furthest = self.request.longest_prompt, max(self.accepted_to)
        self.steps(read_length(self.window, longest, furthest, self.since_sync, width), width)
        self.nfe += 1
        self.since_sync += 1
        if self.since_sync == forwards_per_sync(self.transformer.device):
            self._sync()

    def _sync(self) -> None:
        earlier, self.accepted_to = self.accepted_to, self.window.pos.tolist()
        accepted = [now - then for then, now in zip(earlier, self.accepted_to, strict=True)]
        (before, warm_up), self._synced_at = self._synced_at, self._now()
        seconds = self._synced_at[0] - before if self._synced_at[1] == warm_up else None
        self.adaptive.record(accepted, self.since_sync, seconds)
        self.since_sync = 0

    def _now(self) -> tuple[float, float]:
        """The clock, and the seconds of it that went into warming up."""
        return time.perf_counter(), self.warm_up_seconds

    def report(self) -> StepReport:
        canvas, drawn = self.canvas, self.request.drawn.flatten(1)
        reached = tuple(canvas.count_codes(index + 1) for index in self.accepted_to)
        accepted = tuple(int(codes[:count].sum()) for codes, count in zip(drawn, reached, strict=True))
        codes, total = canvas.cut_codes(self.window.state.tokens).cpu(), int(drawn.sum(1).max())
        return StepReport(codes, accepted, total, self.nfe, self.warm_up_seconds, reached)

    def _check_finite(self, values: Tensor) -> None:
        if not bool(values.isfinite().all()):
            dtype = str(self.transformer.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"the model computes values that are not finite, in {dtype}: the checkpoint is damaged, or its values "
                "are too large for this dtype; download or convert it again, or choose other weights (fp32, bf16)"
            )

    def result(self, seconds: float) -> DecodeResult:
        canvas, state = self.canvas, self.window.state
        log_probs, drawn = canvas.cut_codes(state.log_probs).cpu().double(), self.request.drawn
        self._check_finite(log_probs)
        accept_step = state.accept_step.cpu()
        accept_lengths = canvas.accept_lengths(accept_step)
        return DecodeResult(
            codes=canvas.cut_codes(state.tokens).cpu().clone(),
            nfe=max(map(len, accept_lengths)),
            accept_lengths=accept_lengths,
            accept_step=torch.where(drawn, canvas.cut_codes(accept_step), -1),
            log_likelihood=tuple(torch.where(drawn, log_probs, 0).sum((1, 2)).tolist()),
            seconds=seconds,
            warm_up_seconds=self.warm_up_seconds,
            settings=self.settings,
            matmul_kernel=self.transformer.matmul_kernel,
            attention_kernel=str(self.cache.kernels.attention),
            given_log_likelihood=self._given_log_likelihood(log_probs),
        )

    def _given_log_likelihood(self, log_probs: Tensor) -> tuple[float, ...] | None:
        """Of the given codes after the first drawn one, of log-probabilities [N,h,w]; None where they are not known."""
        drawn = self.request.drawn.flatten(1)
        after = ~drawn & (drawn.cumsum(1) > 0)
        if not self.request.score_given or not bool(after.any()):
            return None
        return tuple(torch.where(after, log_probs.flatten(1), 0).sum(1).tolist())
