"""What the graph that ComfyUI runs says about a node before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LOAD_MODEL = "LuminaMGPT2_LoadModel"
LOAD_MOVQGAN = "LuminaMGPT2_LoadMoVQGAN"
LOAD_LORA = "LuminaMGPT2_LoadLoRA"


def movqgans_used_with(graph: Mapping[str, Any] | None, checkpoint: str) -> list[str]:
    """The names of the MoVQGANs that some node takes together with a checkpoint, in the list of Load MoVQGAN.

    `graph` is ComfyUI's prompt: nodes by id, with `class_type` and `inputs`. A name over a link is not known.
    """
    names = list[str]()
    for node in (graph or {}).values():
        inputs = node.get("inputs", {})
        model = _source(graph, inputs.get("model"), LOAD_MODEL)
        codec = _source(graph, inputs.get("vae"), LOAD_MOVQGAN)
        if model.get("checkpoint") == checkpoint and isinstance(name := codec.get("movqgan"), str):
            names.append(name)
    return list(dict.fromkeys(names))


def is_used(graph: Mapping[str, Any] | None, node: str | None, output: int) -> bool:
    """Whether some node takes an output of a node; `graph` as above."""
    return any([node, output] in one.get("inputs", {}).values() for one in (graph or {}).values())


def _source(graph: Mapping[str, Any] | None, link: Any, kind: str) -> Mapping[str, Any]:
    """The inputs of the node that a link comes from, if it is of a kind; LoRAs on the way are passed."""
    for _ in graph or {}:
        node = (graph or {}).get(link[0], {}) if isinstance(link, list) and link else {}
        if node.get("class_type") != LOAD_LORA:
            break
        link = node.get("inputs", {}).get("model")
    else:
        return {}
    return node.get("inputs", {}) if node.get("class_type") == kind else {}
