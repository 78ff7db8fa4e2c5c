"""The device and the dtype that the nodes take from ComfyUI."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch


@pytest.fixture
def adapter(nodes: Any) -> Any:
    return nodes("nodes.comfy_adapter")


@pytest.mark.parametrize(
    ("bf16", "fp16", "expected"),
    [(True, True, torch.bfloat16), (False, True, torch.float16), (False, False, torch.float32)],
)
def test_the_dtype_is_the_best_that_comfyui_calls_well_supported(
    adapter: Any, monkeypatch: pytest.MonkeyPatch, bf16: bool, fp16: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(adapter.management, "get_torch_device", lambda: torch.device("cuda", 0), raising=False)
    monkeypatch.setattr(adapter.management, "should_use_bf16", lambda _: bf16, raising=False)
    monkeypatch.setattr(adapter.management, "should_use_fp16", lambda _: fp16, raising=False)
    assert adapter.compute_dtype() == expected


def test_directml_is_refused_in_one_line(adapter: Any, nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    directml = SimpleNamespace(type="privateuseone")
    monkeypatch.setattr(adapter.management, "get_torch_device", lambda: directml, raising=False)
    with pytest.raises(nodes("lumina_core.errors").InputError, match=r"^ComfyUI runs on DirectML, .*; start ComfyUI"):
        adapter.model_device()
