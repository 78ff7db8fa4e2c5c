"""The memory that a run in ComfyUI may use."""

from __future__ import annotations

from typing import Any

import pytest
import torch


@pytest.fixture
def on_device(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the device of the model, what a host has available, and what ComfyUI says of all memory."""
    comfy_ui = nodes("nodes.comfy_adapter")

    def set_device(kind: str, available: int | None) -> Any:
        monkeypatch.setattr(comfy_ui, "model_device", lambda: torch.device(kind))
        for name in ("available_bytes", "total_bytes", "free_bytes"):
            monkeypatch.setattr(
                comfy_ui.host, name, lambda _, loaded=0: None if available is None else available + loaded
            )
        monkeypatch.setattr(comfy_ui.management, "get_total_memory", lambda _: 1000, raising=False)
        monkeypatch.setattr(comfy_ui.management, "get_free_memory", lambda _: 900, raising=False)
        return comfy_ui

    return set_device


@pytest.mark.parametrize("kind", ["cpu", "mps"])
def test_a_host_counts_what_is_available_and_the_weights_that_are_loaded(on_device, kind):
    comfy_ui = on_device(kind, 300)
    assert comfy_ui.memory_budget(False, 50).capacity == 350
    assert comfy_ui.free_bytes(torch.device(kind)) == 300


def test_where_nothing_is_known_of_the_host_comfyui_is_asked(on_device):
    comfy_ui = on_device("cpu", None)
    assert comfy_ui.memory_budget(False, 50).capacity == comfy_ui.USABLE_SHARE * 1000
    assert comfy_ui.free_bytes(torch.device("cpu")) == 900


def test_a_gpu_counts_a_share_of_all_its_memory_since_comfyui_unloads_other_models(on_device):
    budget = on_device("cuda", 300).memory_budget(True, 50)
    assert budget.streamed and budget.capacity == on_device("cuda", 300).USABLE_SHARE * 1000
