"""Graphs of defaults through the API, and the VAE that Lumina Loader gives."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from checkpoints import DEMO_FOLDER, MOVQGAN, checkpoint, copied
from comfy_server import PACK
from safetensors.torch import save_file
from truths import faults
from workflows import DECODE, DEMO, MODEL, PROMPT, SAMPLER, SAVE, node

WIDE = PACK / "tests" / "golden" / "movqgan" / "f8_wide" / MOVQGAN
PLACES = ("lumina_mgpt2/converted.safetensors", "diffusion_models/converted.safetensors", "diffusion_models/folder")
BARE = "lumina_mgpt2/bare"
OTHER = "20"


def defaults(server, kind: str) -> dict:
    """The default of every widget of a node, as the server describes it."""
    info = server.get(f"/object_info/{kind}")[kind]["input"]
    widgets = {**info.get("required", {}), **info.get("optional", {})}
    return {name: options[0]["default"] for name, (_, *options) in widgets.items() if "default" in (options or [{}])[0]}


def default_graph(server, caption: str = "a red circle above a blue square") -> dict:
    """Loader, prompt, sampler, VAE Decode and Save Image with their defaults; the VAE is the loader's."""
    links = {
        SAMPLER: {"model": [MODEL, 0], "vae": [MODEL, 1], "prompt": [PROMPT, 0]},
        DECODE: {"samples": [SAMPLER, 0], "vae": [MODEL, 1]},
        SAVE: {"images": [DECODE, 0]},
        PROMPT: {"prompt": caption},
    }
    kinds = {
        MODEL: "LuminaMGPT2_LoadModel",
        PROMPT: "LuminaMGPT2_TaskPrompt",
        SAMPLER: "LuminaMGPT2_SJDSampler",
        DECODE: "VAEDecode",
        SAVE: "SaveImage",
    }
    return {name: node(kind, **defaults(server, kind) | links.get(name, {})) for name, kind in kinds.items()}


def check_right(server, workflow: dict) -> None:
    run = server.run(workflow)
    assert run.succeeded, run.error
    pictures = [np.asarray(picture) for picture in server.pictures(run, SAVE)]
    assert [picture.shape for picture in pictures] == [(96, 96, 3)]
    assert faults(workflow, {SAVE: pictures}) == (1, [])


@pytest.mark.parametrize("place", [None, *PLACES])
def test_a_graph_of_defaults_draws_with_the_checkpoint_that_is_there(server, place):
    with checkpoint(server, place) if place else nullcontext():
        workflow = default_graph(server)
        assert workflow[MODEL]["inputs"]["checkpoint"] == (place.partition("/")[2] if place else DEMO)
        check_right(server, workflow)


def test_without_a_movqgan_nothing_is_drawn_until_it_is_there(server):
    with checkpoint(server, BARE, with_movqgan=False):
        workflow = default_graph(server)
        run = server.run(workflow)
        assert run.error["node_id"] == MODEL and run.executed == [MODEL]
        assert "bare" in run.error["exception_message"] and "models/vae" in run.error["exception_message"]
        with copied(server, DEMO_FOLDER / MOVQGAN, "vae/movqgan.safetensors"):
            check_right(server, workflow)


def test_a_movqgan_that_is_connected_is_enough(server):
    with checkpoint(server, BARE, with_movqgan=False):
        workflow = default_graph(server)
        workflow[OTHER] = node("LuminaMGPT2_LoadMoVQGAN", movqgan=DEMO)
        for name in (SAMPLER, DECODE):
            workflow[name]["inputs"]["vae"] = [OTHER, 0]
        check_right(server, workflow)


def test_a_movqgan_of_another_model_is_passed_over(server):
    with checkpoint(server, BARE, with_movqgan=False), copied(server, WIDE, "vae/a_movqgan_of_another.safetensors"):
        workflow = default_graph(server)
        assert "models/vae" in server.run(workflow).error["exception_message"]
        with copied(server, DEMO_FOLDER / MOVQGAN, "vae/movqgan_of_the_demo.safetensors"):
            check_right(server, workflow)


@pytest.fixture
def foreign_models(server):
    """A file of another model, the folder of a language model, and a file that is none."""
    folder = server.base / "models" / "diffusion_models" / "others"
    (folder / "llm").mkdir(parents=True)
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 4, 3, 3)}, folder / "other.safetensors")
    save_file({"model.embed_tokens.weight": torch.zeros(8, 4)}, folder / "llm" / "model.safetensors")
    (folder / "llm" / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 4}))
    (folder / "broken.safetensors").write_bytes(b"no weights")
    yield
    shutil.rmtree(folder)


@pytest.mark.usefixtures("foreign_models")
def test_models_of_others_in_diffusion_models_are_not_listed(server):
    with checkpoint(server, PLACES[1]), checkpoint(server, PLACES[2]):
        options = server.get("/object_info/LuminaMGPT2_LoadModel")["LuminaMGPT2_LoadModel"]["input"]["required"]
    assert options["checkpoint"][1]["options"] == ["converted.safetensors", "folder", DEMO]
