"""What Lumina Loader reads from the graph before it loads."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import pytest

MODEL = {"class_type": "LuminaMGPT2_LoadModel", "inputs": {"checkpoint": "mine"}}
CODEC = {"class_type": "LuminaMGPT2_LoadMoVQGAN", "inputs": {"movqgan": "codec"}}


def sampler(model: Any, vae: Any) -> dict:
    return {"class_type": "LuminaMGPT2_SJDSampler", "inputs": {"model": model, "vae": vae, "seed": 3}}


@pytest.fixture(scope="module")
def used_with(pack: ModuleType) -> Any:
    return importlib.import_module(f"{pack.__name__}.nodes.graph").movqgans_used_with


def test_the_movqgan_of_a_sampler_is_found(used_with):
    assert used_with({"1": MODEL, "2": CODEC, "3": sampler(["1", 0], ["2", 0])}, "mine") == ["codec"]


@pytest.mark.parametrize("graph", [None, {}, {"1": MODEL}, {"1": MODEL, "2": CODEC}])
def test_without_a_sampler_there_is_none(used_with, graph):
    assert used_with(graph, "mine") == []


@pytest.mark.parametrize(
    ("model", "vae"),
    [(["9", 0], ["2", 0]), (["1", 0], ["9", 0]), (["2", 0], ["1", 0]), ("1", "2"), (None, None), ([], [])],
)
def test_links_to_other_nodes_and_values_are_left_alone(used_with, model, vae):
    assert used_with({"1": MODEL, "2": CODEC, "3": sampler(model, vae)}, "mine") == []


def test_loras_between_loader_and_sampler_are_passed(used_with):
    loras = {str(k): {"class_type": "LuminaMGPT2_LoadLoRA", "inputs": {"model": [str(k - 1), 0]}} for k in (11, 12)}
    graph = {"10": MODEL, "2": CODEC, "3": sampler(["12", 0], ["2", 0]), **loras}
    assert used_with(graph, "mine") == ["codec"]
    loras["11"]["inputs"]["model"] = ["12", 0]
    assert used_with({**graph, **loras}, "mine") == []


def test_the_movqgan_of_another_checkpoint_is_left_alone(used_with):
    assert used_with({"1": MODEL, "2": CODEC, "3": sampler(["1", 0], ["2", 0])}, "other") == []


def test_a_name_over_a_link_is_not_known(used_with):
    linked = {"class_type": "LuminaMGPT2_LoadMoVQGAN", "inputs": {"movqgan": ["8", 0]}}
    assert used_with({"1": MODEL, "2": linked, "3": sampler(["1", 0], ["2", 0])}, "mine") == []


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"vae": ["1", 1]}, True),
        ({"model": ["1", 0], "seed": 1, "vae": ["2", 1]}, False),
        ({"vae": ["2:1", 1]}, False),
        ({"vae": "1"}, False),
        ({}, False),
    ],
)
def test_an_output_is_used_where_a_node_takes_it(pack, inputs, expected):
    graph = importlib.import_module(f"{pack.__name__}.nodes.graph")
    assert graph.is_used({"1": MODEL, "3": {"class_type": "VAEDecode", "inputs": inputs}}, "1", 1) is expected
    assert not graph.is_used(None, "1", 1)
