"""Graphs of a run with LoRAs serve runs with the same LoRAs alone, and hold their branches until they are freed."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from lumina_core.decoding.settings import DecodeResult
from lumina_core.lora.applied import AppliedLora
from lumina_core.pipeline import Lumina

from .lora_files import random_lora
from .test_steps import RecordedSteps, capture_by, demo, drawn, move_weight, plain, request, same

__all__ = ["demo"]


@pytest.fixture
def lora(demo: Lumina) -> AppliedLora:
    return random_lora(demo.config, 8.0)


def uncaptured(demo: Lumina, *loras: AppliedLora) -> DecodeResult:
    return drawn(Lumina(demo.transformer, demo.vocabulary, demo.tokenizer, loras=loras))


def test_a_second_run_with_the_same_loras_goes_on_with_the_graphs_of_the_first(
    demo: Lumina,
    lora: AppliedLora,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, worn, recorded = uncaptured(demo, lora), demo.with_loras(lora), RecordedSteps()
    windows = capture_by(monkeypatch, recorded)
    assert same(drawn(worn), expected) and not same(expected, plain())
    assert same(drawn(worn), expected) and recorded.captured > 0 == recorded.freed and len(windows) == 1


@pytest.mark.slow
def test_runs_with_other_loras_make_graphs_of_their_own(
    demo: Lumina,
    lora: AppliedLora,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    others = [(lora,), (replace(lora, strength=-8.0),), (lora, lora), ()]
    expected = [uncaptured(demo, *loras) for loras in others]
    windows = capture_by(monkeypatch, RecordedSteps())
    for loras, one in zip(others, expected, strict=True):
        assert same(drawn(demo.with_loras(*loras)), one)
    held = [weakref.ref(window.transformer) for window in windows[:-1]]
    assert len(windows) == len(others) and len({one.codes.numpy().tobytes() for one in expected}) == len(others)
    windows.clear()
    gc.collect()
    assert [one() for one in held] == [None] * 3, "a run without a LoRA frees what the last one with one left"


def test_the_branches_are_held_with_the_graphs_and_freed_with_them(
    demo: Lumina,
    lora: AppliedLora,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    windows = capture_by(monkeypatch, RecordedSteps())
    drawn(demo)
    plain_bytes = demo.runs.nbytes
    worn = demo.with_loras(lora)
    drawn(worn)
    held = weakref.ref(windows.pop().transformer)
    windows.clear()
    assert worn.runs is demo.runs and demo.runs.nbytes - plain_bytes > 100_000
    assert worn.runs.prepare(request(worn).with_tree(False), worn.loras) == demo.runs.nbytes > 0
    assert demo.runs.prepare(request(demo).with_tree(False)) == 0 == demo.runs.nbytes
    gc.collect()
    assert held() is None


def test_weights_that_move_move_for_the_worn_model_too(
    demo: Lumina,
    lora: AppliedLora,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, worn, recorded = uncaptured(demo, lora), demo.with_loras(lora), RecordedSteps()
    capture_by(monkeypatch, recorded)
    drawn(worn)
    move_weight(demo.transformer, "layers.1.mlp.down_proj.weight")
    (kept,) = [worn.runs.wear(demo.transformer, worn.loras)]
    assert kept.layers[1].mlp.down_proj.base is demo.transformer.layers[1].mlp.down_proj
    assert same(drawn(worn), expected) and recorded.freed > 0


def test_two_runs_of_one_model_with_and_without_a_lora_do_not_meet(demo: Lumina, lora: AppliedLora) -> None:
    """As two threads: the other run draws while this one waits between two forwards."""
    expected, worn, found = uncaptured(demo, lora), demo.with_loras(lora), []

    def other() -> None:
        if not found:
            found.append(drawn(demo))

    assert same(worn.sample(request(worn), before_forward=other), expected)
    assert same(found[0], plain()) and torch.equal(drawn(demo).codes, plain().codes)
