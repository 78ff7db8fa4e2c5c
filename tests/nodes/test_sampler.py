"""The sampler's requests. What needs ComfyUI is not called."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ..core.lora_files import random_pairs, save_lora

PROMPT = "a red circle left of a blue square"
WIDTH, CODES = 96, 12


@pytest.fixture(scope="module")
def model(nodes: Any) -> Any:
    """The demo on a link."""
    lumina = nodes("lumina_core.pipeline").Lumina.load("demo", dtype=torch.float32, device="cpu")
    return nodes("nodes.types").ManagedLumina("demo", lumina, None)


def canvas_of(nodes: Any, height: int, given_height: int, pictures: int = 1) -> Any:
    rows = given_height // 8
    codes = torch.arange(pictures * rows * CODES).view(pictures, rows, CODES)
    return nodes("nodes.types").CanvasData(WIDTH, height, codes, torch.zeros(pictures, given_height, WIDTH, 3))


def request_of(
    nodes: Any,
    model: Any,
    batch_size: int = 1,
    canvas: Any = None,
    task: str = "t2i",
    height: int = 96,
    **settings: Any,
) -> Any:
    prompt = nodes("nodes.types").TaskPromptData(task, PROMPT, WIDTH, height)
    values = nodes("lumina_core.decoding.settings").DecodeSettings(**settings)
    return nodes("nodes.request").make_request(model, prompt, batch_size, values, canvas)


@pytest.mark.parametrize(("given_height", "left"), [(None, 51), (72, 38), (88, 12)])
def test_a_window_is_reduced_to_what_is_left_as_in_python(
    nodes: Any, model: Any, given_height: int | None, left: int
) -> None:
    canvas = None if given_height is None else canvas_of(nodes, 96, given_height)
    asked = {"height": 32 if canvas is None else 96, "window_size": 128}
    requests = [request_of(nodes, model, canvas=canvas, decoder=name, **asked) for name in ("gumbel", "ar")]
    assert [request.settings.window_size for request in requests] == [left, left]
    results = [model.lumina.sample(request) for request in requests]
    assert torch.equal(results[0].codes, results[1].codes)
    assert f"decoder gumbel, window {left}" in nodes("nodes.report").report_text(
        results[0], nodes("lumina_core.memory").weights_of(model.lumina.transformer), "auto"
    )
    if canvas is None:
        drawn = model.lumina.draw(PROMPT, WIDTH, 32, window_size=128)
        assert torch.equal(drawn.codes, results[0].codes) and drawn.result.settings == results[0].settings


@pytest.fixture
def device_of(nodes: Any, model: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what a GPU of ComfyUI's may hold; returns what was loaded for a run."""
    comfy_ui, budget = nodes("nodes.comfy_adapter"), nodes("lumina_core.memory").Budget
    loaded: list[int] = []
    monkeypatch.setattr(comfy_ui, "model_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(comfy_ui, "load", lambda _, bytes_needed: loaded.append(bytes_needed))
    monkeypatch.setattr(comfy_ui, "preview_wanted", lambda: False)
    monkeypatch.setattr(comfy_ui, "release_memory", lambda: None)
    monkeypatch.setattr(nodes("nodes.progress").Progress, "update", lambda *_: None)
    monkeypatch.setattr(comfy_ui, "check_interrupted", lambda: None)
    monkeypatch.setattr(nodes("lumina_core.decoding.memory_plan"), "kernels_expected", lambda *_: True)

    def set_capacity(capacity: float) -> list[int]:
        monkeypatch.setattr(comfy_ui, "memory_budget", lambda *_: budget(capacity, streamed=True))
        return loaded

    return set_capacity


def test_the_cache_is_int8_where_only_that_fits_and_the_report_says_so(
    nodes: Any, model: Any, device_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    memory, sampler = nodes("lumina_core.memory"), nodes("nodes.sampler")
    codec = model.lumina.movqgan.config
    patcher = SimpleNamespace(load_device="cpu", model_size=lambda: 0)
    movqgan = SimpleNamespace(first_stage_model=SimpleNamespace(config=codec), patcher=patcher)
    managed = nodes("nodes.types").ManagedLumina("demo", model.lumina, patcher)
    request = request_of(nodes, model, window_size=8, seed=3)
    weights = memory.weights_of(model.lumina.transformer)
    plan = memory.plan_memory(
        memory.Demand(model.lumina.config, weights, request.with_tree(True), codec, kernels=True)
    ).streamed
    runs = {}
    for capacity in (plan.total, plan.total - 1):
        loaded = device_of(capacity)
        runs[capacity] = sampler.sample(managed, movqgan, request)
    assert [run.settings.kv_cache for run in runs.values()] == ["auto", "int8"]
    assert loaded[0] == plan.run and loaded[1] < plan.run
    assert [text for text in caplog.messages if text.startswith("key/value cache auto: int8")] == caplog.messages[-1:]
    report = nodes("nodes.report").report_text(runs[plan.total - 1], weights, "auto")
    assert "fp32 weights, int8 cache (chosen by auto)" in report


def test_the_memory_of_loras_is_asked_for_and_the_model_stays_as_it_is(
    nodes: Any, model: Any, device_of: Any, tmp_path: Path
) -> None:
    lora = save_lora(tmp_path / "a.safetensors", random_pairs(model.lumina.config, size=8))
    codec, patcher = model.lumina.movqgan.config, SimpleNamespace(load_device="cpu", model_size=lambda: 0)
    movqgan = SimpleNamespace(first_stage_model=SimpleNamespace(config=codec), patcher=patcher)
    managed = nodes("nodes.types").ManagedLumina("demo", model.lumina, patcher)
    worn, request, loaded = managed.with_lora(lora, 0.5), request_of(nodes, model, window_size=8), device_of(1e12)
    assert worn.patcher is patcher and worn.lumina.transformer is model.lumina.transformer
    plain, changed, again = (nodes("nodes.sampler").sample(one, movqgan, request) for one in (managed, worn, managed))
    taken = nodes("lumina_core.lora.linear").branch_bytes(worn.lumina.loras, model.lumina.config, torch.float32)
    assert loaded[0] == loaded[2] == loaded[1] - taken < loaded[1]
    assert torch.equal(plain.codes, again.codes) and not torch.equal(plain.codes, changed.codes)


def test_a_batch_is_drawn_for_each_picture_of_the_canvas(nodes: Any, model: Any) -> None:
    canvas = canvas_of(nodes, 192, 96, pictures=2)
    request = request_of(nodes, model, 3, canvas, task="edit")
    assert len(request.prompts) == 6 and (request.grid_h, request.grid_w) == (24, 12)
    assert torch.equal(request.given, canvas.codes.repeat_interleave(3, 0))
    text = nodes("lumina_core.tokens.prompts").build_prompt("edit", 96, 192, PROMPT)
    assert request.prompts[0] == model.lumina.tokenizer.encode_prompt(text)


def test_the_negative_prompt_reaches_the_request(nodes: Any, model: Any) -> None:
    """A prompt that was stored without one has none."""
    values = nodes("lumina_core.decoding.settings").DecodeSettings()
    prompts = [nodes("nodes.types").TaskPromptData("t2i", PROMPT, 96, 96, **each) for each in ({}, {"negative": "red"})]
    plain, found = (nodes("nodes.sampler").make_request(model, each, 2, values) for each in prompts)
    text = nodes("lumina_core.tokens.prompts").build_prompt("t2i", 96, 96, "red")
    assert plain.negative_prompts is None
    assert found.negative_prompts == [model.lumina.tokenizer.encode_prompt(text)] * 2


def test_a_task_without_its_picture_is_refused(nodes: Any, model: Any) -> None:
    input_error = nodes("lumina_core.errors").InputError
    with pytest.raises(input_error, match="connect Stitch Panels"):
        request_of(nodes, model, task="edit")
