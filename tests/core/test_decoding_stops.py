"""A run ends where its caller asks, also within the prefill, and where the model computes no numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lumina_core.decoding.request import Request
from lumina_core.decoding.settings import DecodeSettings
from lumina_core.errors import CheckpointError
from lumina_core.files.json_text import read_json
from lumina_core.pipeline import Lumina

from .cli_runs import CommandLine


@pytest.fixture
def demo() -> Lumina:
    return Lumina.load("demo", weights="fp32", device="cpu")


def request(prompts: int = 1) -> Request:
    return Request([[1, 2, 3]] * prompts, 4, 4, settings=DecodeSettings(seed=1))


class Cancelled(Exception):
    """What a caller raises."""


def test_a_prefill_ends_before_any_of_its_blocks(demo: Lumina) -> None:
    """Two prefixes are read, with the prompt and without it; a second picture of the prompt copies its rows."""
    blocks = 2 * len(demo.transformer.layers)
    ran = []
    for layer in demo.transformer.blocks:
        layer.register_forward_hook(lambda *_: ran.append(1))
    for last in range(blocks):
        calls = iter(range(last))

        def cancel(calls: object = calls) -> None:
            if next(calls, None) is None:  # type: ignore[call-overload]
                raise Cancelled

        ran.clear()
        with pytest.raises(Cancelled):
            demo.sample(request(prompts=2), before_forward=cancel)
        assert len(ran) == last


def spoil(demo: Lumina, name: str, value: float) -> None:
    with torch.no_grad():
        demo.transformer.get_parameter(name).fill_(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("layers.1.mlp.down_proj.weight", float("inf")), ("norm.weight", float("nan")), ("code_head.weight", 3e38)],
)
def test_values_that_are_not_finite_end_the_run_in_the_prefill(demo: Lumina, name: str, value: float) -> None:
    spoil(demo, name, value)
    with pytest.raises(CheckpointError, match="computes values that are not finite, in float32"):
        demo.sample(request(), on_step=lambda _: pytest.fail("a forward ran"))


def test_values_that_are_not_finite_later_end_the_run_too(demo: Lumina) -> None:
    def overflow(_: object) -> None:
        spoil(demo, "code_head.weight", 3e38)

    with pytest.raises(CheckpointError, match="computes values that are not finite"):
        demo.sample(request(), on_step=overflow)


def test_a_checkpoint_whose_values_overflow_draws_no_picture(
    lumina: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every value in the file is finite."""
    monkeypatch.setattr("lumina_core.checkpoint.values.LARGEST", 1e39)
    folder = shutil.copytree(lumina.checkpoint, tmp_path / "large")
    index = read_json(next(folder.glob("*.index.json")))
    name = "model.layers.1.self_attn.o_proj.weight"
    file = folder / index["weight_map"][name]
    tensors = load_file(file)
    tensors[name] = 3e38 * torch.rand_like(tensors[name])
    save_file(tensors, file, metadata={"format": "pt"})
    line = lumina.generate("--checkpoint", folder).refusal()
    assert "not finite" in line and lumina.files() == {}
