"""Captured and compiled steps: the same tokens as one by one, and no run that fails for want of them."""

from __future__ import annotations

import itertools
import logging
import shutil
from collections.abc import Callable
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.checkpoint.find import DEMO_FOLDER
from lumina_core.decoding import cuda_graph, loop
from lumina_core.decoding.settings import DECODERS, DecodeResult, DecodeSettings
from lumina_core.decoding.window import Window
from lumina_core.errors import InputError
from lumina_core.model.compile import PARTS, compile_blocks, set_compile
from lumina_core.model.transformer import Transformer
from lumina_core.pipeline import Lumina, build_request
from lumina_core.tokens.prompts import build_prompt


class RecordedSteps:
    """Captures as a GPU does: capturing runs nothing, a replay does what the step would do.

    `corrupt` is called after every replay.
    """

    def __init__(self, corrupt: Callable[[], None] | None = None):
        self.captured, self.replayed, self.corrupt = 0, 0, corrupt

    def first(self, step: cuda_graph.Step) -> None:
        step()

    def capture(self, step: cuda_graph.Step) -> cuda_graph.Step:
        self.captured += 1

        def replay() -> None:
            self.replayed += 1
            step()
            if self.corrupt is not None:
                self.corrupt()

        return replay


@pytest.fixture(scope="module")
def demo() -> Lumina:
    return Lumina.load("demo", dtype=torch.float32, device="cpu")


def drawn(lumina: Lumina, decoder: str = "gumbel", **settings: Any) -> DecodeResult:
    text = build_prompt("t2i", 64, 64, "a red circle left of a blue square")
    request = build_request(lumina, text, 64, 64, 2, settings=DecodeSettings(decoder=decoder, **settings))
    return lumina.sample(request)


@pytest.fixture(scope="module")
def plain(demo: Lumina) -> Callable[..., DecodeResult]:
    """What steps one by one draw, kept for all tests."""
    return lru_cache(partial(drawn, demo))


Patch = pytest.MonkeyPatch


def capture_by(patch: Patch, capture: cuda_graph.Capture) -> list[Window]:
    """Captures the steps of all runs that follow; returns their windows."""
    windows: list[Window] = []

    def make_steps(window: Window) -> cuda_graph.CapturedSteps:
        windows.append(window)
        return cuda_graph.CapturedSteps(window, capture)

    patch.setattr(loop, "make_steps", make_steps)
    return windows


def same(first: DecodeResult, second: DecodeResult) -> bool:
    return (
        torch.equal(first.codes, second.codes)
        and torch.equal(first.accept_step, second.accept_step)
        and first.accept_lengths == second.accept_lengths
        and first.log_likelihood == second.log_likelihood
    )


@pytest.mark.parametrize("decoder", DECODERS)
def test_replays_draw_what_the_steps_draw(
    demo: Lumina, plain: Callable[..., DecodeResult], monkeypatch: Patch, decoder: str
) -> None:
    expected, recorded = plain(decoder), RecordedSteps()
    capture_by(monkeypatch, recorded)
    captured = drawn(demo, decoder)
    assert same(expected, captured)
    assert 0 < recorded.captured < recorded.replayed
    assert 0 < captured.warm_up_seconds < captured.seconds and expected.warm_up_seconds == 0


def test_a_step_counts_as_captured_only_when_it_is_replayed(demo: Lumina, monkeypatch: Patch) -> None:
    seen = []

    class Watched(cuda_graph.CapturedSteps):
        def __call__(self, kv_len: int, width: int) -> None:
            super().__call__(kv_len, width)
            seen.append((self.captured, recorded.replayed))

    recorded = RecordedSteps()
    monkeypatch.setattr(loop, "make_steps", lambda window: Watched(window, recorded))
    drawn(demo, adapt_window=False, decoder="ar")
    assert seen[0] == (False, 0) and seen[1][0]
    replays = [after - before for (_, before), (_, after) in itertools.pairwise(seen)]
    assert [captured for captured, _ in seen[2:]] == [count > 0 for count in replays[1:]]
    assert not cuda_graph.PlainSteps.captured


class CannotCapture(RecordedSteps):
    """A device that refuses every capture."""

    def __init__(self, *message: str):
        super().__init__()
        self.message = message

    def capture(self, step: cuda_graph.Step) -> cuda_graph.Step:
        raise RuntimeError(*self.message)


class CannotReplay(RecordedSteps):
    """A device on which every replay fails, after it changed the window."""

    def capture(self, step: cuda_graph.Step) -> cuda_graph.Step:
        def replay() -> None:
            step()
            raise RuntimeError("CUDA error: out of memory")

        return replay


@pytest.mark.parametrize("decoder", ["gumbel", "coupled"])
@pytest.mark.parametrize(
    ("capture", "reason"),
    [
        (
            CannotCapture("operation not permitted when stream is capturing\nmore"),
            "cannot be captured (operation not permitted when stream is capturing)",
        ),
        (CannotCapture(), "cannot be captured (RuntimeError)"),
        (CannotReplay(), "cannot be captured (CUDA error: out of memory)"),
    ],
    ids=["no capture", "no message", "no replay"],
)
def test_a_step_that_cannot_be_captured_runs_one_by_one(
    demo: Lumina,
    plain: Callable[..., DecodeResult],
    monkeypatch: Patch,
    caplog: pytest.LogCaptureFixture,
    capture: RecordedSteps,
    reason: str,
    decoder: str,
) -> None:
    expected = plain(decoder)
    capture_by(monkeypatch, capture)
    with caplog.at_level(logging.WARNING):
        assert same(expected, drawn(demo, decoder))
    (line,) = [record.getMessage() for record in caplog.records]
    assert reason in line and "same picture" in line


@pytest.mark.parametrize("state", ["tokens", "accept_step", "pos", "accepted"])
def test_a_replay_that_changes_the_window_differently_is_not_used(
    demo: Lumina,
    plain: Callable[..., DecodeResult],
    monkeypatch: Patch,
    caplog: pytest.LogCaptureFixture,
    state: str,
) -> None:
    expected, recorded = plain("gumbel"), RecordedSteps(corrupt=lambda: getattr(windows[0].state, state).add_(1))
    windows = capture_by(monkeypatch, recorded)
    with caplog.at_level(logging.WARNING):
        assert same(expected, drawn(demo))
    assert "a captured step accepted other tokens than the step itself" in caplog.text and recorded.replayed == 1


@pytest.mark.parametrize(("backend", "on_gpu"), [("native", False), ("cudaMallocAsync", True)])
def test_steps_run_one_by_one_where_a_capture_could_end_the_program(
    demo: Lumina, monkeypatch: Patch, caplog: pytest.LogCaptureFixture, backend: str, on_gpu: bool
) -> None:
    """A failing capture is not even tried: some weights are elsewhere, or the allocator cannot capture."""
    where = torch.device("cpu") if on_gpu else torch.device("meta")
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: backend)
    monkeypatch.setattr(cuda_graph, "captures", lambda *_: True)
    monkeypatch.setattr(cuda_graph, "CudaCapture", lambda _: pytest.fail("a capture was prepared"))
    transformer = demo.transformer
    if not on_gpu:
        monkeypatch.setattr(Transformer, "device", where)
    with caplog.at_level(logging.WARNING):
        steps = cuda_graph.make_steps(SimpleNamespace(transformer=transformer))
    assert isinstance(steps, cuda_graph.PlainSteps)
    reason = "--disable-cuda-malloc" if on_gpu else "some of the weights do not fit on the GPU"
    assert reason in caplog.text and "steps are not captured" in caplog.text


def test_other_choices_are_refused() -> None:
    with pytest.raises(InputError, match="compile is 'yes'; expected one of auto, on, off"):
        set_compile(torch.nn.Module(), "yes")


@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_blocks_draw_the_same_tokens(plain: Callable[..., DecodeResult]) -> None:
    expected = plain("gumbel")
    lumina = Lumina.load("demo", dtype=torch.float32, device="cpu", compile="on")
    compiled, again = drawn(lumina), drawn(lumina)
    assert torch.equal(expected.codes, compiled.codes) and same(compiled, again)
    assert compiled.warm_up_seconds > again.warm_up_seconds
    for ours, theirs in zip(expected.log_likelihood, compiled.log_likelihood, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-2)


def test_where_torch_cannot_compile_on_is_an_error_and_auto_is_not(monkeypatch: Patch) -> None:
    transformer = Transformer(TransformerConfig.from_file(DEMO_FOLDER / "config.json")).eval()

    def broken(*_: object, **__: object) -> Callable[..., None]:
        def run(*_: object) -> None:
            raise RuntimeError("no compiler was found\nlong story")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(InputError, match="does not work here: no compiler was found; choose auto"):
        compile_blocks(transformer)
    assert not transformer.compiled and not set(PARTS) & set(vars(transformer.layers[0]))
