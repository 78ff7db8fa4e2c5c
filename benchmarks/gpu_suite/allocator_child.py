"""Captures, replays and frees the demo's steps in this process: python -m benchmarks.gpu_suite.allocator_child good

`failing` invalidates every capture by waiting for the device during it. Each event is printed as a JSON line when it
happens, so that the last line shows how far a killed process came.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys

import torch

from lumina_core.decoding import cuda_graph, loop
from lumina_core.decoding.settings import DecodeResult, DecodeSettings
from lumina_core.decoding.window import Window
from lumina_core.pipeline import Lumina

from ..sources import caption_request
from .context import emit
from .processes import end_with_parent

PROMPT, BYTES = "a red circle left of a blue square", 2**28


class Failing:
    """A capture during which the host waits for the device, which no capture allows."""

    def __init__(self, capture: cuda_graph.Capture, window: Window):
        self._capture, self._window = capture, window

    def unavailable(self) -> str:
        return self._capture.unavailable()

    def first(self, step: cuda_graph.Step) -> None:
        self._capture.first(step)

    def capture(self, step: cuda_graph.Step) -> cuda_graph.Graph:
        def waiting() -> None:
            step()
            self._window.pos.cpu()
            if self._window.pos.device.type == "cpu":  # as in a dry run, where waiting is no error
                raise RuntimeError("a capture made to fail")

        return self._capture.capture(waiting)


class CPUCapture:
    """A capture for a dry run on a CPU: a replay repeats the step."""

    def unavailable(self) -> str:
        return ""

    def first(self, step: cuda_graph.Step) -> None:
        step()

    def capture(self, step: cuda_graph.Step) -> cuda_graph.Graph:
        step()
        return cuda_graph.Graph(step, lambda: None)


class WarningEvents(logging.Handler):
    """Reports why steps are not captured."""

    def emit(self, record: logging.LogRecord) -> None:
        emit(not_captured_for=record.getMessage()[:300])


def draw(lumina: Lumina) -> DecodeResult:
    # One token a forward: all steps are of one kind, which is captured at the second.
    settings = DecodeSettings(decoder="ar", seed=3, kv_cache="int8")
    return lumina.sample(caption_request(lumina, [PROMPT], settings))


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("good", "failing"))
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    end_with_parent()
    logging.getLogger(cuda_graph.__name__).addHandler(WarningEvents(logging.WARNING))
    device = torch.device("cpu" if options.dry_run else "cuda")
    emit(backend=torch.cuda.get_allocator_backend() if device.type == "cuda" else "none")
    dtype = torch.float32 if options.dry_run else torch.bfloat16
    lumina = Lumina.load("demo", device=device, dtype=dtype, compile="off")
    capturing: list[cuda_graph.CapturedSteps] = []

    def make_captured(window: Window, log: cuda_graph.CaptureLog) -> cuda_graph.CapturedSteps:
        capture = CPUCapture() if options.dry_run else cuda_graph.CudaCapture(device)
        failing = options.kind == "failing"
        capturing.append(cuda_graph.CapturedSteps(window, Failing(capture, window) if failing else capture, log))
        return capturing[-1]

    make_plain = loop.make_steps
    plain = draw(lumina)
    emit(drawn="plain")
    # Not through `make_steps`, which captures only where a child process could: what happens otherwise is tested here.
    loop.make_steps = make_captured
    captured = draw(lumina)
    emit(drawn="captured", captured=capturing[-1].captured, same=torch.equal(plain.codes, captured.codes))
    capturing.clear()
    lumina.runs.free()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.synchronize()
    emit(freed=True)
    loop.make_steps = make_plain
    torch.empty(BYTES if device.type == "cuda" else 1, dtype=torch.uint8, device=device).fill_(1)
    again = draw(lumina)
    emit(drawn="plain again", same_again=torch.equal(plain.codes, again.codes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
