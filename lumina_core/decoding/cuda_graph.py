"""How the steps of a run are carried out: one by one, or captured once and replayed."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from ..device import free_memory
from ..model.compile import ON, captures, compile_blocks
from ..model.transformer import Transformer
from .window import Window

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Step = Callable[[], Tensor]


class Steps(Protocol):
    """Moves a window. `warm_up_seconds`: what of the time so far went into setting up, not into drawing.

    `captured`: whether the last step was the replay of a captured one.
    """

    warm_up_seconds: float
    captured: bool

    def __call__(self, end_of_row_embedding: Tensor, kv_len: int, width: int) -> Tensor:
        """`Window.step`."""


class Capture(Protocol):
    """How a device captures a step, which gives a tensor that is always the same one."""

    def first(self, step: Step) -> Tensor:
        """Runs a step as it is, where the next ones are to be captured."""

    def capture(self, step: Step) -> Step:
        """What does the step again whenever it is called. Raises RuntimeError where that cannot be had."""


def make_steps(window: Window) -> Steps:
    """The steps for the model's choice of `compile`.

    off: one by one. auto: captured as CUDA graphs on a GPU, one by one elsewhere. on: the same, and the blocks compiled
    by torch.compile, which may round otherwise. Raises InputError where "on" cannot be had.
    """
    transformer = window.transformer
    compiling = compile_blocks(transformer) if transformer.compile_choice == ON else 0.0
    if not captures(transformer.compile_choice, transformer.device):
        return PlainSteps(window, compiling)
    if obstacle := _obstacle(transformer):
        logger.warning("compile: steps are not captured, %s; they run one by one, which is slower", obstacle)
        return PlainSteps(window, compiling)
    return CapturedSteps(window, CudaCapture(transformer.device), compiling)


def _obstacle(transformer: Transformer) -> str:
    """Why no step may be captured, which then is not even tried: a capture that fails can end the program."""
    if any(part.device != transformer.device for part in transformer.parameters()):
        return "since some of the weights have no room on the GPU"
    if torch.cuda.get_allocator_backend() == "cudaMallocAsync":
        return "since the allocator cudaMallocAsync is in use (start ComfyUI with --disable-cuda-malloc)"
    return ""


class PlainSteps:
    """One operation after the other."""

    captured = False

    def __init__(self, window: Window, warm_up_seconds: float = 0.0):
        self.window, self.warm_up_seconds = window, warm_up_seconds

    def __call__(self, end_of_row_embedding: Tensor, kv_len: int, width: int) -> Tensor:
        return self.window.step(end_of_row_embedding, kv_len, width)


class CapturedSteps:
    """A replay for each kind of step, which is a length of cache and a width: the same, without the host's work.

    The first step of a kind is run as it is, so that libraries set themselves up; before the second it is captured.
    Capturing runs nothing. The very first replay is held against the step itself. Where capturing fails, or a replay
    settles other tokens, the log says so and all further steps are run one by one.
    """

    def __init__(self, window: Window, capture: Capture, warm_up_seconds: float = 0.0):
        self.window, self.warm_up_seconds = window, warm_up_seconds
        self._capture, self._replays = capture, dict[tuple[int, int], Step | None]()
        self._works, self._checked, self.captured = True, False, False
        # Where every replay leaves what it settled: nothing that was made in a capture is held outside.
        self._settled = torch.zeros_like(window.pos)

    def __call__(self, end_of_row_embedding: Tensor, kv_len: int, width: int) -> Tensor:
        def step() -> Tensor:
            return self._settled.copy_(self.window.step(end_of_row_embedding, kv_len, width))

        return self._run(step, (kv_len, width)).clone()

    def _run(self, step: Step, kind: tuple[int, int]) -> Tensor:
        if self._works and kind in self._replays:
            replay = self._replays[kind] or self._timed(lambda: self._make_replay(step, kind))
            self.captured = replay is not None
            return step() if replay is None else replay()
        self.captured = False
        if self._works:
            self._replays[kind] = None
            return self._timed(lambda: self._capture.first(step))
        return step()

    def _timed(self, run: Callable[[], Result]) -> Result:
        start = time.perf_counter()
        done = run()
        self.warm_up_seconds += time.perf_counter() - start
        return done

    def _make_replay(self, step: Step, kind: tuple[int, int]) -> Step | None:
        try:
            replay = self._capture.capture(step)
            works = self._checked or self._same(replay, step)
        except RuntimeError as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._give_up(f"a step cannot be captured ({reason})")
            return None
        self._checked = True
        if not works:
            self._give_up("a captured step settled other tokens than the step itself")
            return None
        self._replays[kind] = replay
        return replay

    def _same(self, replay: Step, step: Step) -> bool:
        """Whether both do the same to the window, which is then where it was before."""
        state = self.window.state
        before = [one.clone() for one in state]
        after = []
        for run in (replay, step):
            try:
                settled = run()
                after.append([settled.clone(), *(one.clone() for one in state if not one.is_floating_point())])
            finally:
                for one, kept in zip(state, before, strict=True):
                    one.copy_(kept)
        return all(torch.equal(*pair) for pair in zip(*after, strict=True))

    def _give_up(self, why: str) -> None:
        self._works = False
        self._replays.clear()
        logger.warning("compile: %s; steps run one by one, which gives the same picture more slowly", why)


class CudaCapture:
    """Captures steps as CUDA graphs, on a stream of a run's own and in one pool of memory: only one runs at a time.

    The graphs live and die together. First steps run on the same stream, so that what libraries set up for a stream
    (workspaces of cuBLAS) is there before a capture.
    """

    def __init__(self, device: torch.device):
        self._device, self._stream = device, torch.cuda.Stream(device)
        self._pool, self._begun = torch.cuda.graph_pool_handle(), False

    def first(self, step: Step) -> Tensor:
        with self._on_stream():
            return step()

    def capture(self, step: Step) -> Step:
        if not self._begun:
            # A capture cannot take back what the allocator keeps unused.
            free_memory()
            self._begun = True
        graph = torch.cuda.CUDAGraph()
        with self._on_stream():
            # Not `torch.cuda.graph`, which empties the memory cache each time.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                settled = step()
            except BaseException:
                with contextlib.suppress(RuntimeError):  # it must not hide the error that led here
                    graph.capture_end()
                raise
            graph.capture_end()

        def replay() -> Tensor:
            graph.replay()
            return settled

        return replay

    @contextlib.contextmanager
    def _on_stream(self) -> Iterator[None]:
        """Runs what is within on the capturing stream, behind what came before and ahead of what follows."""
        outside = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            yield
        outside.wait_stream(self._stream)
