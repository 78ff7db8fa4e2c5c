"""The models that the loaders list, and quantised weights."""

from __future__ import annotations

import shutil

import pytest
import torch
from comfy_server import PACK
from safetensors.torch import load_file, save_file
from workflows import DEMO, MODEL, SAVE, text_to_image

from lumina_core.checkpoint.published import is_block_linear
from lumina_core.convert import plan_conversion
from lumina_core.quant.schemes import SCHEMES

FOLDER = PACK / "lumina_core" / "demo"


def offered(server, node: str, name: str) -> list[str]:
    info = server.get(f"/object_info/LuminaMGPT2_{node}")[f"LuminaMGPT2_{node}"]
    return info["input"]["required"][name][1]["options"]


def test_a_fresh_install_lists_the_demo(server):
    assert offered(server, "LoadModel", "checkpoint")[0] == DEMO
    assert offered(server, "LoadMoVQGAN", "movqgan")[0] == DEMO


def test_folders_single_files_and_extra_paths_are_listed(server):
    models = server.base / "models" / "lumina_mgpt2"
    places = [models / "a folder", models / "maker" / "name", models / "single", server.elsewhere / "far"]
    for place in places:
        shutil.copytree(FOLDER, place, ignore=shutil.ignore_patterns("loras"))
    (models / "single" / "config.json").unlink()
    shutil.copy(FOLDER / "movqgan.safetensors", server.base / "models" / "vae" / "movqgan_demo.safetensors")
    checkpoints = offered(server, "LoadModel", "checkpoint")
    assert checkpoints == ["a folder", "far", "maker/name", "single/model.safetensors", DEMO]
    assert offered(server, "LoadMoVQGAN", "movqgan") == ["movqgan_demo.safetensors", DEMO]
    changes = {"checkpoint": "far", "movqgan": "movqgan_demo.safetensors"}
    assert server.run(text_to_image(**changes)).succeeded
    for place in (models / "a folder", models / "maker", models / "single", server.elsewhere / "far"):
        shutil.rmtree(place)
    (server.base / "models" / "vae" / "movqgan_demo.safetensors").unlink()


@pytest.mark.parametrize("weights", ["fp8", "int4"])
def test_weights_quantised_while_loading_draw_the_picture_of_a_converted_file(server, weights):
    path = server.base / "models" / "lumina_mgpt2" / f"demo-{weights}.safetensors"
    plan_conversion(FOLDER, weights).write(path)
    assert offered(server, "LoadModel", "checkpoint") == [path.name, DEMO]
    runs = [server.run(text_to_image(checkpoint=DEMO, weights=weights, seed=5))]
    runs.append(server.run(text_to_image(checkpoint=path.name, weights="auto", seed=5)))
    assert all(run.succeeded for run in runs)
    first, second = (server.pictures(run, SAVE)[0].tobytes() for run in runs)
    assert first == second
    assert f"is quantised to {weights} while it is read; {path} is the same and loads faster" in server.log
    refused = server.run(text_to_image(checkpoint=path.name, weights="bf16", seed=5))
    path.unlink()
    assert refused.error["node_id"] == MODEL and f"converted to {weights}" in refused.error["exception_message"]


def test_a_checkpoint_that_comfyui_quantised_is_listed_and_draws_its_weights(server):
    """Its layers in ComfyUI's int8 form: the picture of the demo whose weights are quantised alike while loading."""
    folder = server.base / "models" / "diffusion_models" / "by comfyui"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("loras"))
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    described = torch.tensor(list(b'{"format": "int8_tensorwise"}'), dtype=torch.uint8)
    for name in [name for name in tensors if is_block_linear(name)]:
        packed, layer = SCHEMES["int8"].quantize(tensors[name].float()), name.removesuffix("weight")
        tensors |= {name: packed["codes"], f"{layer}weight_scale": packed["scale"], f"{layer}comfy_quant": described}
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
    try:
        assert folder.name in offered(server, "LoadModel", "checkpoint")
        runs = [server.run(text_to_image(checkpoint=folder.name, weights="auto", seed=5))]
    finally:
        shutil.rmtree(folder)
    runs.append(server.run(text_to_image(checkpoint=DEMO, weights="int8", seed=5)))
    first, second = (server.pictures(run, SAVE)[0].tobytes() for run in runs)
    assert first == second
