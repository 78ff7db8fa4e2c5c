"""How the steps of a run are carried out: one by one, or captured once and replayed."""

import logging
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from ..model.compile import OFF, ON, compile_blocks
from .window import Window

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Replay = Callable[[], Tensor]
Capture = Callable[[Callable[[], Tensor]], Replay]


class Steps(Protocol):
    """Moves a window. `warm_up_seconds`: what of the time so far went into setting up, not into drawing."""

    warm_up_seconds: float

    def __call__(self, end_of_row_embedding: Tensor, kv_len: int, width: int) -> Tensor:
        """`Window.step`."""


def make_steps(window: Window) -> Steps:
    """The steps for the model's choice of `compile`.

    off: one by one. auto: captured as CUDA graphs on a GPU, one by one elsewhere. on: the same, and the blocks compiled
    by torch.compile, which may round otherwise. Raises InputError where "on" cannot be had.
    """
    transformer = window.transformer
    compiling = compile_blocks(transformer) if transformer.compile_choice == ON else 0.0
    if transformer.device.type != "cuda" or transformer.compile_choice == OFF:
        return PlainSteps(window, compiling)
    return CapturedSteps(window, CudaCapture(transformer.device), compiling)


class PlainSteps:
    """One operation after the other."""

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
        self._capture, self._replays = capture, dict[tuple[int, int], Replay | None]()
        self._works, self._checked = True, False

    def __call__(self, end_of_row_embedding: Tensor, kv_len: int, width: int) -> Tensor:
        def step() -> Tensor:
            return self.window.step(end_of_row_embedding, kv_len, width)

        kind = (kv_len, width)
        if self._works and kind in self._replays:
            replay = self._replays[kind] or self._timed(lambda: self._captured(step, kind))
            if replay is not None:
                return replay().clone()
        elif self._works:
            self._replays[kind] = None
            return self._timed(step)
        return step()

    def _timed(self, run: Callable[[], Result]) -> Result:
        start = time.perf_counter()
        done = run()
        self.warm_up_seconds += time.perf_counter() - start
        return done

    def _captured(self, step: Callable[[], Tensor], kind: tuple[int, int]) -> Replay | None:
        try:
            replay = self._capture(step)
        except RuntimeError as error:
            self._give_up(f"a step cannot be captured ({str(error).strip().splitlines()[0]})")
            return None
        if not self._checked:
            self._checked = True
            if not self._same(replay, step):
                self._give_up("a captured step settled other tokens than the step itself")
                return None
        self._replays[kind] = replay
        return replay

    def _same(self, replay: Replay, step: Callable[[], Tensor]) -> bool:
        """Whether both do the same to the window, which is then where it was before."""
        state = self.window.state
        before = [one.clone() for one in state]
        after = []
        for run in (replay, step):
            accepted = run()
            after.append([accepted.clone(), *(one.clone() for one in state if not one.is_floating_point())])
            for one, kept in zip(state, before, strict=True):
                one.copy_(kept)
        return all(torch.equal(*pair) for pair in zip(*after, strict=True))

    def _give_up(self, why: str) -> None:
        self._works = False
        self._replays.clear()
        logger.warning("compile: %s; steps run one by one, which gives the same picture more slowly", why)


class CudaCapture:
    """Captures a step as a CUDA graph. All graphs of a run use the same memory: only one runs at a time."""

    def __init__(self, device: torch.device):
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Callable[[], Tensor]) -> Replay:
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            # Not `torch.cuda.graph`, which empties the memory cache each time.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                settled = step()
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(self._stream)

        def replay() -> Tensor:
            graph.replay()
            return settled

        return replay
