"""Names of checkpoints and MoVQGANs over several model folders: each opens the file that it stands for."""

from __future__ import annotations

import shutil

import pytest
from comfy_server import PACK
from test_save import NODE, SHOW, offered, saving
from workflows import DEMO, MODEL, MOVQGAN, REPORT, SAMPLER, SAVE, text_to_image

from lumina_core.convert import plan_conversion

FOLDER = PACK / "lumina_core" / "demo"


@pytest.fixture
def roots(server):
    """The extra model folder, which ComfyUI lists first, and the usual one; empty before and after."""
    folders = [server.elsewhere, server.base / "models" / "lumina_mgpt2"]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    yield folders
    for folder in folders:
        shutil.rmtree(folder)
        folder.mkdir()


def test_a_shadowed_checkpoint_has_a_name_of_its_own(server, roots):
    for root, weights in zip(roots, ("int4", "int8"), strict=True):
        plan_conversion(FOLDER, weights).write(root / "same.safetensors")
    names = ["same.safetensors", f"same.safetensors [{roots[1].as_posix()}]"]
    assert offered(server) == [*names, DEMO]
    runs = [server.run(text_to_image(checkpoint=name)) for name in names]
    reports = [run.outputs[REPORT]["text"][0] for run in runs]
    assert "int4 weights" in reports[0] and "int8 weights" in reports[1]


def test_a_saved_checkpoint_opens_under_the_name_that_the_node_returns(server, roots):
    plan_conversion(FOLDER, "int8").write(roots[0] / "mine_00001_.safetensors")
    saved = server.run(saving("mine", "int4"))
    assert saved.succeeded, saved.error
    (name,) = saved.outputs[SHOW]["text"]
    assert [path.name for path in roots[1].iterdir()] == [name] and name in offered(server)
    run = server.run(text_to_image(checkpoint=name))
    assert "int4 weights" in run.outputs[REPORT]["text"][0]


def test_files_put_flat_into_the_folder_are_one_checkpoint(server, roots):
    shutil.copytree(FOLDER, roots[1], dirs_exist_ok=True, ignore=shutil.ignore_patterns("loras"))
    assert offered(server) == ["lumina_mgpt2", DEMO]
    runs = [server.run(text_to_image(checkpoint=name, seed=5)) for name in ("lumina_mgpt2", "model.safetensors", DEMO)]
    assert all(run.succeeded for run in runs), "the name that earlier versions listed still opens it"
    assert len({server.pictures(run, SAVE)[0].tobytes() for run in runs}) == 1
    saved = server.run(saving("beside"))
    assert saved.outputs[SHOW]["text"][0] in offered(server)


@pytest.mark.parametrize("prefix", ["a:b", "NUL", "mine/con", "dot.", "space ", "what?", "a" * 250, "../out"])
def test_a_name_that_some_system_forbids_is_refused_and_no_folder_is_made(server, roots, prefix):
    run = server.run(saving(prefix))
    assert run.error["node_id"] == NODE and "filename_prefix is" in run.error["exception_message"]
    assert len(run.error["exception_message"].strip().splitlines()) == 1
    assert list(roots[1].rglob("*")) == []


def test_another_movqgan_is_refused_before_the_model_is_loaded(server):
    path = server.base / "models" / "vae" / "wide.safetensors"
    shutil.copy(PACK / "tests" / "golden" / "movqgan" / "f8_wide" / "movqgan.safetensors", path)
    server.free()
    fresh = server.run(text_to_image(movqgan="wide.safetensors"))
    assert server.run(text_to_image()).succeeded
    loaded = server.run(text_to_image(movqgan="wide.safetensors"))
    path.unlink()
    assert fresh.error["node_id"] == MODEL and "MoVQGAN" in fresh.error["exception_message"]
    assert not [step for step in fresh.progress if step[0] == MODEL], "no weight is read"
    assert loaded.error["node_id"] == SAMPLER and MODEL in loaded.cached, "a loaded model is not loaded again to see it"


def test_a_movqgan_in_a_second_folder_is_listed_once_by_its_own_name(server):
    folder = server.base / "models" / "vae"
    for name in ("movqgan_a.safetensors", "sub/movqgan_a.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(FOLDER / "movqgan.safetensors", folder / name)
    info = server.get("/object_info/LuminaMGPT2_LoadMoVQGAN")["LuminaMGPT2_LoadMoVQGAN"]
    assert info["input"]["required"]["movqgan"][1]["options"] == [
        "movqgan_a.safetensors",
        "sub/movqgan_a.safetensors",
        DEMO,
    ]
    run = server.run(text_to_image(movqgan="sub/movqgan_a.safetensors"))
    shutil.rmtree(folder)
    folder.mkdir()
    assert run.succeeded and MOVQGAN in run.executed
