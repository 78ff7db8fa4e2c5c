"""Captures, replays and frees the demo's steps in this process: python -m benchmarks.gpu_suite.allocator_child good

`failing` makes every capture invalid by waiting for the device in it. Each event is a JSON line as soon as it happened,
so that the last one tells how far a process came that was ended.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys

import torch
from torch import Tensor

from lumina_core.decoding import cuda_graph
from lumina_core.decoding.settings import DecodeResult, DecodeSettings
from lumina_core.pipeline import Request, draw
from lumina_core.tokens.prompts import build_prompt

from ..sources import GRID_SIDE, Demo, load_demo
from .context import emit
from .processes import end_with_parent

loop = sys.modules["lumina_core.decoding.loop"]
PROMPT, SIDE, BYTES = "a red circle left of a blue square", 64, 2**28


class Failing:
    """A capture in which the host waits for the device, which no capture allows."""

    def __init__(self, capture: cuda_graph.Capture):
        self._capture = capture

    def first(self, step: cuda_graph.Step) -> Tensor:
        return self._capture.first(step)

    def capture(self, step: cuda_graph.Step) -> cuda_graph.Step:
        def waiting() -> Tensor:
            accepted = step()
            accepted.cpu()
            raise_on_cpu(accepted)
            return accepted

        return self._capture.capture(waiting)


class StandIn:
    """Captures on a CPU, for a dry run: a replay does what the step does."""

    def first(self, step: cuda_graph.Step) -> Tensor:
        return step()

    def capture(self, step: cuda_graph.Step) -> cuda_graph.Step:
        step()
        return step


def raise_on_cpu(accepted: Tensor) -> None:
    """Where no device refuses to be waited for, as in a dry run."""
    if accepted.device.type == "cpu":
        raise RuntimeError("a capture made to fail")


class Noted(logging.Handler):
    """Tells why steps are not captured."""

    def emit(self, record: logging.LogRecord) -> None:
        emit(not_captured_for=record.getMessage()[:300])


def drawn(demo: Demo) -> DecodeResult:
    prompt = demo.tokenizer.encode_prompt(build_prompt("t2i", SIDE, SIDE, PROMPT))
    # One token a forward: all steps are of one kind, which is captured at the second.
    settings = DecodeSettings(decoder="ar", seed=3, kv_cache="int8")
    return draw(demo.transformer, demo.vocabulary, Request([prompt], GRID_SIDE, GRID_SIDE, settings=settings))


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("good", "failing"))
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    end_with_parent()
    logging.getLogger("lumina_core.decoding.cuda_graph").addHandler(Noted(logging.WARNING))
    device = torch.device("cpu" if options.dry_run else "cuda")
    emit(backend=torch.cuda.get_allocator_backend() if device.type == "cuda" else "none")
    demo = load_demo("demo", device, torch.float32 if options.dry_run else torch.bfloat16)
    capturing: list[cuda_graph.CapturedSteps] = []

    def make_captured(window) -> cuda_graph.CapturedSteps:
        capture = StandIn() if options.dry_run else cuda_graph.CudaCapture(device)
        capturing.append(cuda_graph.CapturedSteps(window, Failing(capture) if options.kind == "failing" else capture))
        return capturing[-1]

    make_plain = loop.make_steps
    demo.transformer.compile_choice = "off"
    plain = drawn(demo)
    emit(drawn="plain")
    # Past what the pack refuses by itself: that is what is tried here.
    loop.make_steps = make_captured
    captured = drawn(demo)
    emit(drawn="captured", captured=capturing[-1].captured, same=torch.equal(plain.codes, captured.codes))
    capturing.clear()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.synchronize()
    emit(freed=True)
    loop.make_steps = make_plain
    torch.empty(BYTES if device.type == "cuda" else 1, dtype=torch.uint8, device=device).fill_(1)
    again = drawn(demo)
    emit(drawn="plain again", same_again=torch.equal(plain.codes, again.codes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
