"""The steps of a run: executed one by one, or captured once as CUDA graphs and replayed."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol, TypeVar

import torch

from ..device import free_memory
from ..model.compile import ON, captures, compile_blocks
from ..model.transformer import Transformer
from .window import Window

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Step = Callable[[], None]


class Steps(Protocol):
    """Moves a window.

    `warm_up_seconds` is the time spent so far on compiling and capturing; `captured` says whether the last step was a
    replay.
    """

    warm_up_seconds: float
    captured: bool

    def __call__(self, kv_len: int, width: int) -> None:
        """Runs `Window.step`."""


class Capture(Protocol):
    """A device's way to capture a step."""

    def first(self, step: Step) -> None:
        """Runs a step uncaptured, where later ones are captured."""

    def capture(self, step: Step) -> Step:
        """Captures a step; the function it returns repeats it. Raises RuntimeError where capturing fails."""


def make_steps(window: Window) -> Steps:
    """The steps for the transformer's `compile_choice`.

    off: one by one. auto: captured as CUDA graphs on a GPU, one by one elsewhere. on: the same, and torch.compile
    compiles the blocks, which may round differently. Raises InputError where torch.compile does not work.
    """
    transformer = window.transformer
    compile_seconds = compile_blocks(transformer) if transformer.compile_choice == ON else 0.0
    if not captures(transformer.compile_choice, transformer.device):
        return PlainSteps(window, compile_seconds)
    if reason := _unsupported_reason(transformer):
        logger.warning("compile: steps are not captured, %s; they run one by one, which is slower", reason)
        return PlainSteps(window, compile_seconds)
    return CapturedSteps(window, CudaCapture(transformer.device), compile_seconds)


def _unsupported_reason(transformer: Transformer) -> str:
    """Why steps must not be captured, or "". A capture that fails can end the program, so it is not tried then."""
    if any(part.device != transformer.device for part in transformer.parameters()):
        return "since some of the weights do not fit on the GPU"
    if torch.cuda.get_allocator_backend() == "cudaMallocAsync":
        return "since the allocator cudaMallocAsync is in use (start ComfyUI with --disable-cuda-malloc)"
    return ""


class PlainSteps:
    """Steps that run operation by operation."""

    captured = False

    def __init__(self, window: Window, warm_up_seconds: float = 0.0):
        self.window, self.warm_up_seconds = window, warm_up_seconds

    def __call__(self, kv_len: int, width: int) -> None:
        self.window.step(kv_len, width)


class CapturedSteps:
    """Steps that are captured and replayed, one graph for each (kv_len, width).

    The first step of a kind runs uncaptured, so that libraries initialise; the second one is captured, then replayed.
    The very first replay is compared with the step itself. Where capturing fails, or a replay changes the state
    differently, the log says so and all further steps run one by one.
    """

    def __init__(self, window: Window, capture: Capture, warm_up_seconds: float = 0.0):
        self.window, self.warm_up_seconds = window, warm_up_seconds
        self._capture, self._replays = capture, dict[tuple[int, int], Step | None]()
        self._works, self._checked, self.captured = True, False, False

    def __call__(self, kv_len: int, width: int) -> None:
        step, kind = partial(self.window.step, kv_len, width), (kv_len, width)
        self.captured = False
        if not self._works:
            step()
        elif kind not in self._replays:
            self._replays[kind] = None
            self._timed(lambda: self._capture.first(step))
        else:
            replay = self._replays[kind] or self._timed(lambda: self._make_replay(step, kind))
            self.captured = replay is not None
            (replay or step)()

    def _timed(self, run: Callable[[], Result]) -> Result:
        start = time.perf_counter()
        done = run()
        self.warm_up_seconds += time.perf_counter() - start
        return done

    def _make_replay(self, step: Step, kind: tuple[int, int]) -> Step | None:
        try:
            replay = self._capture.capture(step)
            works = self._checked or self._is_same(replay, step)
        except RuntimeError as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._give_up(f"a step cannot be captured ({reason})")
            return None
        if not works:
            self._give_up("a captured step accepted other tokens than the step itself")
            return None
        self._checked, self._replays[kind] = True, replay
        return replay

    def _is_same(self, replay: Step, step: Step) -> bool:
        """Whether both change the window's state in the same way; restores the state."""
        state = self.window.state.changed
        before = [one.clone() for one in state]
        after = []
        for run in (replay, step):
            try:
                run()
                after.append([one.clone() for one in state if not one.is_floating_point()])
            finally:
                for one, kept in zip(state, before, strict=True):
                    one.copy_(kept)
        return all(torch.equal(*pair) for pair in zip(*after, strict=True))

    def _give_up(self, why: str) -> None:
        self._works = False
        self._replays.clear()
        logger.warning("compile: %s; steps run one by one, which gives the same picture more slowly", why)


class CudaCapture:
    """Captures steps as CUDA graphs on a stream of its own, in one memory pool, since only one runs at a time.

    First steps run on the same stream, so that what libraries allocate for a stream (cuBLAS workspaces) exists before a
    capture.
    """

    def __init__(self, device: torch.device):
        self._device, self._stream = device, torch.cuda.Stream(device)
        self._pool, self._begun = torch.cuda.graph_pool_handle(), False

    def first(self, step: Step) -> None:
        with self._on_stream():
            step()

    def capture(self, step: Step) -> Step:
        if not self._begun:
            # During a capture the allocator cannot free its unused blocks.
            free_memory()
            self._begun = True
        graph = torch.cuda.CUDAGraph()
        with self._on_stream():
            # Not `torch.cuda.graph`, which empties the memory cache each time.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                step()
            except BaseException:
                with contextlib.suppress(RuntimeError):  # it must not hide the error that led here
                    graph.capture_end()
                raise
            graph.capture_end()
        return graph.replay

    @contextlib.contextmanager
    def _on_stream(self) -> Iterator[None]:
        """Runs the body on the capturing stream, after earlier work and before later work of the current stream."""
        outside = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            yield
        outside.wait_stream(self._stream)
