"""Save Lumina Checkpoint: the loader lists the file, and it draws the pictures of the saved model."""

from __future__ import annotations

from pathlib import Path

import pytest
from workflows import DEMO, MODEL, MOVQGAN, SAVE, node, text_to_image

from lumina_core.convert import plan_conversion

NODE, SHOW = "20", "21"


@pytest.fixture
def models(server):
    """The folder of the checkpoints. Files that a test saves are deleted after it."""
    folder = server.base / "models" / "lumina_mgpt2"
    before = set(folder.rglob("*"))
    yield folder
    for path in sorted(set(folder.rglob("*")) - before, reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def saving(prefix: str, weights: str = "int4", checkpoint: str = DEMO, with_vae: bool = True) -> dict:
    workflow = {
        MODEL: node("LuminaMGPT2_LoadModel", checkpoint=checkpoint, weights="auto"),
        MOVQGAN: node("LuminaMGPT2_LoadMoVQGAN", movqgan=DEMO),
        NODE: node("LuminaMGPT2_SaveCheckpoint", model=[MODEL, 0], weights=weights, filename_prefix=prefix),
        SHOW: node("PreviewAny", source=[NODE, 0]),
    }
    if with_vae:
        workflow[NODE]["inputs"]["vae"] = [MOVQGAN, 0]
    return workflow


def offered(server) -> list[str]:
    info = server.get("/object_info/LuminaMGPT2_LoadModel")["LuminaMGPT2_LoadModel"]
    return info["input"]["required"]["checkpoint"][1]["options"]


def files_of(models: Path) -> list[str]:
    return sorted(path.relative_to(models).as_posix() for path in models.rglob("*") if path.is_file())


def test_a_saved_checkpoint_is_listed_and_draws_the_same_picture(server, models, tmp_path):
    saved = server.run(saving("mine/small"))
    assert saved.succeeded, saved.error
    name = "mine/small_00001_.safetensors"
    assert saved.outputs[SHOW]["text"] == [name] and name in offered(server) and files_of(models) == [name]
    steps = [(value, most) for node_id, value, most in saved.progress if node_id == NODE]
    assert steps and steps[-1][0] == steps[-1][1]
    plan_conversion("demo", "int4").write(tmp_path / "converted.safetensors")
    assert (models / name).read_bytes() == (tmp_path / "converted.safetensors").read_bytes()
    runs = [server.run(text_to_image(checkpoint=DEMO, weights="int4", seed=5))]
    runs.append(server.run(text_to_image(checkpoint=name, weights="auto", seed=5)))
    first, second = (server.pictures(run, SAVE)[0].tobytes() for run in runs)
    assert first == second
    again = server.run(saving("mine/again", checkpoint=name))
    assert again.error["node_id"] == NODE and "converted to int4 already" in again.error["exception_message"]


def test_the_rounding_is_for_int4_weights(server, models, tmp_path):
    for weights in ("int4", "int8"):
        workflow = saving(f"rounded/{weights}", weights)
        workflow[NODE]["inputs"]["rounding"] = "hqq"
        saved = server.run(workflow)
        assert saved.succeeded, saved.error
        expected = tmp_path / f"{weights}.safetensors"
        plan_conversion("demo", weights, rounding="hqq" if weights == "int4" else None).write(expected)
        assert (models / f"rounded/{weights}_00001_.safetensors").read_bytes() == expected.read_bytes()


def test_nothing_is_overwritten(server, models):
    (models / "kept_00001_.safetensors").write_bytes(b"")
    saved = server.run(saving("kept", "bf16", with_vae=False))
    assert saved.succeeded, saved.error
    assert files_of(models) == ["kept_00001_.safetensors", "kept_00002_.safetensors"]
    assert (models / "kept_00001_.safetensors").read_bytes() == b""


def test_cancel_leaves_no_partial_file(server, models):
    cancelled = server.run(saving("cancelled"), cancel_at=1)
    assert cancelled.interrupted
    assert files_of(models) == []


@pytest.mark.parametrize("prefix", ["../outside", "movqgan", "", "/absolute"])
def test_names_that_the_loader_would_not_list_are_refused(server, models, prefix):
    refused = server.run(saving(prefix))
    assert refused.error["node_id"] == NODE and "filename_prefix is" in refused.error["exception_message"]
    assert files_of(models) == []
