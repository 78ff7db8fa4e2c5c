"""Captured and compiled steps: the same tokens as one by one, and no run that fails for want of them."""

from __future__ import annotations

import itertools
import logging
import shutil
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lumina_core import load_tokenizer, load_transformer
from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.checkpoint.find import find_checkpoint
from lumina_core.decoding import cuda_graph
from lumina_core.decoding.settings import DECODERS, DecodeResult, DecodeSettings
from lumina_core.errors import InputError
from lumina_core.model import compile as compiling
from lumina_core.model.compile import set_compile
from lumina_core.pipeline import Request, draw
from lumina_core.tokens.prompts import build_prompt
from lumina_core.tokens.vocabulary import Vocabulary

# The module; the package's own name of it is the function.
loop = sys.modules["lumina_core.decoding.loop"]


class RecordedSteps:
    """Captures as a GPU does: capturing runs nothing, a replay does what the step would do."""

    def __init__(self, spoil: Callable[[Tensor], None] | None = None):
        self.captured, self.replayed, self.spoil = 0, 0, spoil

    def first(self, step: cuda_graph.Step) -> Tensor:
        return step()

    def capture(self, step: cuda_graph.Step) -> cuda_graph.Step:
        self.captured += 1

        def replay() -> Tensor:
            self.replayed += 1
            settled = step()
            if self.spoil is not None:
                self.spoil(settled)
            return settled

        return replay


def load_demo() -> tuple:
    transformer = load_transformer("demo", dtype=torch.float32)
    tokenizer = load_tokenizer(find_checkpoint("demo").tokenizer)
    return transformer, tokenizer, Vocabulary.of(tokenizer, transformer.config)


@pytest.fixture(scope="module")
def demo() -> tuple:
    return load_demo()


def drawn(demo: tuple, decoder: str = "gumbel", **settings) -> DecodeResult:
    transformer, tokenizer, vocabulary = demo
    prompt = tokenizer.encode_prompt(build_prompt("t2i", 64, 64, "a red circle left of a blue square"))
    return draw(transformer, vocabulary, Request([prompt] * 2, 8, 8, None, DecodeSettings(decoder=decoder, **settings)))


def capture_by(monkeypatch: pytest.MonkeyPatch, capture: cuda_graph.Capture) -> None:
    monkeypatch.setattr(loop, "make_steps", lambda window: cuda_graph.CapturedSteps(window, capture))


def same(first: DecodeResult, second: DecodeResult) -> bool:
    return (
        torch.equal(first.codes, second.codes)
        and torch.equal(first.settled_step, second.settled_step)
        and first.accept_lengths == second.accept_lengths
        and first.log_likelihood == second.log_likelihood
    )


@pytest.mark.parametrize("decoder", DECODERS)
def test_replays_draw_what_the_steps_draw(demo, monkeypatch, decoder):
    plain, recorded = drawn(demo, decoder, seed=3), RecordedSteps()
    capture_by(monkeypatch, recorded)
    captured = drawn(demo, decoder, seed=3)
    assert same(plain, captured)
    assert 0 < recorded.captured < recorded.replayed
    assert 0 < captured.warm_up_seconds < captured.seconds and plain.warm_up_seconds == 0


def test_a_step_is_said_to_be_captured_only_when_it_is_replayed(demo, monkeypatch):
    told = []

    class Told(cuda_graph.CapturedSteps):
        def __call__(self, *arguments) -> Tensor:
            settled = super().__call__(*arguments)
            told.append((self.captured, recorded.replayed))
            return settled

    recorded = RecordedSteps()
    monkeypatch.setattr(loop, "make_steps", lambda window: Told(window, recorded))
    drawn(demo, adapt_window=False, decoder="ar")
    assert told[0] == (False, 0) and told[1][0]
    replays = [after - before for (_, before), (_, after) in itertools.pairwise(told)]
    assert [captured for captured, _ in told[2:]] == [count > 0 for count in replays[1:]]
    assert not cuda_graph.PlainSteps.captured


def test_a_step_that_cannot_be_captured_is_run_one_by_one(demo, monkeypatch, caplog):
    class Refusal(RecordedSteps):
        def capture(self, step: cuda_graph.Step) -> cuda_graph.Step:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    plain = drawn(demo)
    capture_by(monkeypatch, Refusal())
    with caplog.at_level(logging.WARNING):
        assert same(plain, drawn(demo))
    (line,) = [record.getMessage() for record in caplog.records]
    assert "cannot be captured (operation not permitted when stream is capturing)" in line and "same picture" in line


def test_a_replay_that_settles_other_tokens_is_not_used(demo, monkeypatch, caplog):
    plain, recorded = drawn(demo), RecordedSteps(spoil=lambda settled: settled.add_(1))
    capture_by(monkeypatch, recorded)
    with caplog.at_level(logging.WARNING):
        assert same(plain, drawn(demo))
    assert "settled other tokens" in caplog.text and recorded.replayed == 1


def test_a_step_that_fails_without_a_word_is_run_one_by_one(demo, monkeypatch, caplog):
    class Refusal(RecordedSteps):
        def capture(self, step: cuda_graph.Step) -> cuda_graph.Step:
            raise RuntimeError

    capture_by(monkeypatch, Refusal())
    drawn(demo)
    assert "cannot be captured (RuntimeError)" in caplog.text


def test_a_replay_that_fails_leaves_the_window_as_it_was(demo, monkeypatch, caplog):
    class Broken(RecordedSteps):
        def capture(self, step: cuda_graph.Step) -> cuda_graph.Step:
            def replay() -> Tensor:
                step()
                raise RuntimeError("CUDA error: out of memory")

            return replay

    plain = drawn(demo, "coupled")
    capture_by(monkeypatch, Broken())
    assert same(plain, drawn(demo, "coupled"))
    assert "cannot be captured (CUDA error: out of memory)" in caplog.text


@pytest.mark.parametrize(
    ("backend", "on_gpu", "expected"),
    [("native", True, ""), ("native", False, "no room on the GPU"), ("cudaMallocAsync", True, "--disable-cuda-malloc")],
)
def test_no_capture_is_tried_where_it_could_end_the_program(demo, monkeypatch, backend, on_gpu, expected):
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: backend)
    if not on_gpu:
        monkeypatch.setattr(type(demo[0]), "device", torch.device("cuda"))
    assert expected in (found := cuda_graph._obstacle(demo[0])) and bool(found) == bool(expected)


def test_other_choices_are_refused():
    with pytest.raises(InputError, match="compile is 'yes'; expected one of auto, on, off"):
        set_compile(torch.nn.Module(), "yes")


@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_blocks_draw_the_same_tokens():
    demo = load_demo()
    plain = drawn(demo)
    set_compile(demo[0], "on")
    compiled, again = drawn(demo), drawn(demo)
    assert torch.equal(plain.codes, compiled.codes) and same(compiled, again)
    assert compiled.warm_up_seconds > again.warm_up_seconds
    for ours, theirs in zip(plain.log_likelihood, compiled.log_likelihood, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-2)


def test_where_torch_cannot_compile_on_is_an_error_and_auto_is_not(monkeypatch):
    transformer = compiling.Transformer(TransformerConfig.from_file(find_checkpoint("demo").config)).eval()

    def broken(*_: object, **__: object) -> Callable:
        def run(*_: object) -> None:
            raise RuntimeError("no compiler was found\nlong story")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(InputError, match="does not work here: no compiler was found; choose auto"):
        compiling.compile_blocks(transformer)
    assert not transformer.compiled and "before" not in vars(transformer.layers[0])
