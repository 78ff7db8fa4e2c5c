"""Which models the loaders offer."""

from __future__ import annotations

import shutil

from comfy_server import PACK
from workflows import DEMO, text_to_image

FOLDER = PACK / "lumina_core" / "demo"


def offered(server, node: str, name: str) -> list[str]:
    info = server.get(f"/object_info/LuminaMGPT2_{node}")[f"LuminaMGPT2_{node}"]
    return info["input"]["required"][name][1]["options"]


def test_a_fresh_install_offers_the_demo(server):
    assert offered(server, "LoadModel", "checkpoint")[0] == DEMO
    assert offered(server, "LoadMoVQGAN", "movqgan")[0] == DEMO


def test_folders_single_files_and_extra_paths_are_offered(server):
    models = server.base / "models" / "lumina_mgpt2"
    places = [models / "a folder", models / "maker" / "name", models / "single", server.elsewhere / "far"]
    for place in places:
        shutil.copytree(FOLDER, place)
    (models / "single" / "config.json").unlink()
    shutil.copy(FOLDER / "movqgan.safetensors", server.base / "models" / "vae" / "movqgan_demo.safetensors")
    checkpoints = offered(server, "LoadModel", "checkpoint")
    assert checkpoints == [DEMO, "a folder", "far", "maker/name", "single/model.safetensors"]
    assert offered(server, "LoadMoVQGAN", "movqgan") == [DEMO, "movqgan_demo.safetensors"]
    changes = {"checkpoint": "far", "movqgan": "movqgan_demo.safetensors"}
    assert server.run(text_to_image(**changes)).succeeded
    for place in (models / "a folder", models / "maker", models / "single", server.elsewhere / "far"):
        shutil.rmtree(place)
    (server.base / "models" / "vae" / "movqgan_demo.safetensors").unlink()
