"""The steps of a run: executed one by one, or captured as CUDA graphs and replayed."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

import torch

from ..device import free_bytes, free_memory, gigabytes
from ..kernels.warm_up import CAPTURE, tell
from ..model.compile import captures
from ..model.transformer import Transformer
from .capture_probe import capture_failure
from .window import Window

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Step = Callable[[], None]
Kind = tuple[int, int]
# Bytes that must be free for a capture: the nodes of a graph, what the driver and the libraries allocate for it.
CAPTURE_BYTES = 2**28


@dataclass(frozen=True)
class Graph:
    """A captured step: `replay` runs it, `reset` frees it."""

    replay: Step
    reset: Step


class Capture(Protocol):
    """A device's way to capture a step."""

    def unavailable(self) -> str:
        """Why there is no room for a capture now, or ""."""

    def first(self, step: Step) -> None:
        """Runs a step uncaptured, where later ones are captured."""

    def capture(self, step: Step) -> Graph:
        """Captures a step without running it. Raises an error of any kind where capturing fails."""


@dataclass
class CaptureLog:
    """What a model's runs learnt of capturing: why it is not tried again, and what the log said already."""

    failure: str = ""
    said: set[str] = field(default_factory=set)

    def say(self, why: str) -> None:
        """Logs once that steps run uncaptured."""
        if why not in self.said:
            self.said.add(why)
            logger.warning("CUDA graphs: %s; steps run one by one, which gives the same picture more slowly", why)


class Steps(Protocol):
    """Moves a window. `captured` says whether the last step was a replay."""

    captured: bool
    warm_up_seconds: float

    def begin_run(self) -> None:
        """Starts a run: `warm_up_seconds` is the time that it spends on warming up and capturing."""

    def free(self) -> None:
        """Frees all graphs."""

    def __call__(self, kv_len: int, width: int) -> None:
        """Runs `Window.step`."""


def make_steps(window: Window, log: CaptureLog) -> Steps:
    """The steps for the transformer's `compile_choice`: off one by one, else captured on an NVIDIA or AMD GPU.

    Captured only where a child process has shown that capturing works on this machine: one that fails can end the
    program. The log says why steps are not captured.
    """
    transformer = window.transformer
    if not captures(transformer.compile_choice, transformer.device):
        return PlainSteps(window)
    if transformer.streamed:
        log.say("the weights do not all fit on the GPU and are streamed in")
        return PlainSteps(window)
    if failure := log.failure or capture_failure(transformer.device, allocates=window.kernels.allocates):
        log.say(failure)
        return PlainSteps(window)
    return CapturedSteps(window, CudaCapture(transformer.device), log)


class PlainSteps:
    """Steps that run operation by operation."""

    captured = False
    warm_up_seconds = 0.0

    def __init__(self, window: Window):
        self.window = window

    def begin_run(self) -> None:
        """Nothing to do."""

    def free(self) -> None:
        """Nothing to do."""

    def __call__(self, kv_len: int, width: int) -> None:
        self.window.step(kv_len, width)


class CapturedSteps:
    """Steps that are captured and replayed, one graph for each (kv_len, width); graphs serve later runs too.

    The first step of a kind runs uncaptured, so that libraries initialise and every buffer exists; the second one is
    captured, then replayed. The very first replay is compared with the step itself. Before each replay the weights'
    addresses are compared with those at the capture: where they have moved, all graphs are dropped. Where capturing
    fails, there is no room for it, or weights are not on the device, steps run one by one.
    """

    def __init__(self, window: Window, capture: Capture, log: CaptureLog):
        self.window, self.log, self.warm_up_seconds, self.captured = window, log, 0.0, False
        self._capture, self._graphs = capture, dict[Kind, Graph | None]()
        self._addresses = WeightAddresses(window.transformer)
        self._captured_at: tuple[int, ...] = ()
        self._checked, self._refusal = False, ""

    @property
    def graphs(self) -> int:
        """Graphs that are held."""
        return sum(graph is not None for graph in self._graphs.values())

    def begin_run(self) -> None:
        self.warm_up_seconds, self._refusal = 0.0, ""

    def __call__(self, kv_len: int, width: int) -> None:
        step, kind = partial(self.window.step, kv_len, width), (kv_len, width)
        self._follow_weights()
        self.captured = False
        if self.log.failure or self._refusal:
            step()
        elif kind not in self._graphs:
            self._graphs[kind] = None
            self._timed(lambda: self._capture.first(step))
        else:
            graph = self._graphs[kind] or self._timed(lambda: self._make_graph(step, kind))
            self.captured = graph is not None
            (graph.replay if graph else step)()

    def _follow_weights(self) -> None:
        """Drops all graphs where a weight has moved."""
        if (addresses := self._addresses()) == self._captured_at:
            return
        self.free()
        self._captured_at, self._refusal = addresses, ""
        if not on_device(self.window.transformer):
            self._refuse("some of the weights are not on the GPU")

    def _timed(self, run: Callable[[], Result]) -> Result:
        tell(CAPTURE)
        start = time.perf_counter()
        done = run()
        self.warm_up_seconds += time.perf_counter() - start
        return done

    def _make_graph(self, step: Step, kind: Kind) -> Graph | None:
        if reason := self._capture.unavailable():
            self._refuse(reason)
            return None
        try:
            graph = self._capture.capture(step)
            works = self._checked or self._is_same(graph.replay, step)
        except Exception as error:  # of CUDA, its libraries, Triton or PyTorch
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._fail(f"a step cannot be captured ({reason})")
            return None
        if not works:
            graph.reset()
            self._fail("a captured step accepted other tokens than the step itself")
            return None
        self._checked, self._graphs[kind] = True, graph
        return graph

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

    def _refuse(self, why: str) -> None:
        """Captures nothing more in this run."""
        self._refusal = why
        self.log.say(why)

    def _fail(self, why: str) -> None:
        """Captures nothing more in this process with this model."""
        self.free()
        self.log.failure = why
        self.log.say(why)

    def free(self) -> None:
        for graph in self._graphs.values():
            if graph is not None:
                graph.reset()
        self._graphs.clear()


class WeightAddresses:
    """Where all weights of a transformer are: graphs hold these addresses, and a memory manager may move a weight."""

    def __init__(self, transformer: Transformer):
        # A manager replaces parameters in these dicts.
        self._parameters = [module._parameters for module in transformer.modules() if module._parameters]

    def __call__(self) -> tuple[int, ...]:
        return tuple(one.data_ptr() for group in self._parameters for one in group.values() if one is not None)


def on_device(transformer: Transformer) -> bool:
    """Whether all weights are where the transformer runs."""
    return all(part.device == transformer.device for part in transformer.parameters())


class CudaCapture:
    """Captures steps as CUDA graphs on a stream of its own, in one memory pool, since only one runs at a time.

    First steps run on the same stream, so that what libraries allocate for a stream (cuBLAS workspaces) exists before a
    capture.
    """

    def __init__(self, device: torch.device):
        self._device, self._stream = device, torch.cuda.Stream(device)
        self._pool, self._begun = torch.cuda.graph_pool_handle(), False

    def unavailable(self) -> str:
        if not self._begun:
            # During a capture the allocator cannot free its unused blocks.
            free_memory()
            self._begun = True
        free = free_bytes(self._device) or 0
        if free >= CAPTURE_BYTES:
            return ""
        return f"{gigabytes(free)} are free on the GPU, and a capture takes up to {gigabytes(CAPTURE_BYTES)}"

    def first(self, step: Step) -> None:
        with self._on_stream():
            step()

    def capture(self, step: Step) -> Graph:
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
        return Graph(graph.replay, graph.reset)

    @contextlib.contextmanager
    def _on_stream(self) -> Iterator[None]:
        """Runs the body on the capturing stream, after earlier work and before later work of the current stream."""
        outside = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            yield
        outside.wait_stream(self._stream)
