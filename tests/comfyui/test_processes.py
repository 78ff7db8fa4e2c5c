"""Loading and saving that take long: progress, cancel, files that change, and the end of ComfyUI."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from comfy_server import PACK, ComfyServer
from safetensors.torch import load_file, save_file
from test_save import NODE, saving
from workflows import MODEL, SAMPLER, SAVE, text_to_image

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.checkpoint.published import published_shapes

FOLDER = PACK / "lumina_core" / "demo"
TEXT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "movqgan.safetensors")
# Seconds from a cancel to the end of a run, on a machine with other work.
CANCEL_LIMIT = 10


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights that takes seconds to quantise."""
    folder = tmp_path_factory.mktemp("large") / "large"
    folder.mkdir()
    for name in TEXT_FILES:
        shutil.copy(FOLDER / name, folder)
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8, "num_attention_heads": 8}
    values = json.loads((FOLDER / "config.json").read_text()) | sizes | {"num_key_value_heads": 8, "head_dim": 128}
    (folder / "config.json").write_text(json.dumps(values))
    shapes = published_shapes(TransformerConfig.from_dict(values))
    tensors = {name: torch.randn(shape, dtype=torch.bfloat16) * 0.02 for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture
def checkpoint(server, large):
    """Puts the large checkpoint into the models of the server."""
    link = server.base / "models" / "lumina_mgpt2" / "large"
    link.symlink_to(large, target_is_directory=True)
    yield link.name
    link.unlink()


def cancelled_after(server, workflow: dict) -> tuple:
    """A run that is cancelled at its second progress message, and the seconds from then to its end."""
    times: list[float] = []
    post = server.post

    def timed(path: str, content: dict | None = None) -> dict:
        if path == "/interrupt":
            times.append(time.monotonic())
        return post(path, content)

    server.post = timed
    try:
        run = server.run(workflow, cancel_at=2)
    finally:
        server.post = post
    return run, time.monotonic() - times[0]


def test_quantising_while_loading_shows_progress_and_ends_soon_after_a_cancel(server, checkpoint):
    run, seconds = cancelled_after(server, text_to_image(checkpoint=checkpoint, weights="int4"))
    assert run.interrupted_at == MODEL and run.error is None
    assert all(node == MODEL and value < most for node, value, most in run.progress)
    assert seconds < CANCEL_LIMIT


def test_saving_ends_soon_after_a_cancel_and_leaves_nothing(server, checkpoint):
    workflow = saving("new folder/cancelled", checkpoint=checkpoint)
    workflow[MODEL]["inputs"]["weights"] = "bf16"
    assert server.run({MODEL: workflow[MODEL], **_shown(workflow)}).succeeded
    run, seconds = cancelled_after(server, workflow)
    assert run.interrupted_at == NODE and seconds < CANCEL_LIMIT
    models = server.base / "models" / "lumina_mgpt2"
    assert [path.name for path in models.iterdir()] == [checkpoint]


def _shown(workflow: dict) -> dict:
    """An output node that loads the model of a workflow and no more."""
    return {"99": {"class_type": "PreviewAny", "inputs": {"source": [MODEL, 0]}}}


def test_a_checkpoint_that_is_replaced_is_loaded_again(server):
    folder = server.base / "models" / "lumina_mgpt2" / "mine"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("loras"))
    before = server.run(text_to_image(checkpoint="mine", seed=50))
    weights = load_file(folder / "model.safetensors")
    head = next(name for name in weights if "lm_head" in name)
    save_file(weights | {head: weights[head].roll(1, 0)}, folder / "new.safetensors")
    (folder / "new.safetensors").replace(folder / "model.safetensors")
    after = server.run(text_to_image(checkpoint="mine", seed=50))
    (folder / "model.safetensors").write_bytes((FOLDER / "model.safetensors").read_bytes()[:-1000])
    cut = server.run(text_to_image(checkpoint="mine", seed=50))
    shutil.rmtree(folder)
    assert before.succeeded and after.succeeded and {MODEL, SAMPLER} <= set(after.executed)
    assert server.pictures(before, SAVE)[0].tobytes() != server.pictures(after, SAVE)[0].tobytes()
    assert cut.error["node_id"] == MODEL and "model.safetensors" in cut.error["exception_message"]


def test_the_end_of_comfyui_while_it_saves_leaves_nothing(server, large, tmp_path):
    with ComfyServer(server.comfyui, server.python, tmp_path) as own:
        models = own.base / "models" / "lumina_mgpt2"
        (models / "large").symlink_to(large, target_is_directory=True)
        workflow = saving("killed", checkpoint="large")
        workflow[MODEL]["inputs"]["weights"] = "bf16"
        own.queue(workflow)
        while own.next_progress() != NODE:
            pass
        own.end()
        assert [path.name for path in models.iterdir()] == ["large"]
