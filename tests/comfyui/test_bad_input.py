"""Bad input shows a readable message on the node and leaves the server running."""

from __future__ import annotations

import shutil

import pytest
from comfy_server import PACK
from workflows import MODEL, MOVQGAN, PROMPT, REPORT, SAMPLER, node, text_to_image

GOLDEN = PACK / "tests" / "golden"


def refused(answer: dict, node_id: str) -> str:
    """The errors of a node in the server's refusal to queue a workflow."""
    assert "prompt_id" not in answer
    return " ".join(f"{error['message']} {error['details']}" for error in answer["node_errors"][node_id]["errors"])


@pytest.fixture
def checkpoint(server):
    """A copy of the demo checkpoint in models/lumina_mgpt2, for a test to corrupt."""
    folder = server.base / "models" / "lumina_mgpt2" / "broken"
    shutil.copytree(PACK / "lumina_core" / "demo", folder, ignore=shutil.ignore_patterns("loras"))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("side", "value", "nearest"), [("width", 65, 64), ("height", 100, 96), ("width", 8, 32), ("height", -32, 32)]
)
def test_a_size_off_the_grid_is_one_error_before_the_run(server, side, value, nearest):
    (error,) = server.queue(text_to_image(**{side: value}))["node_errors"][PROMPT]["errors"]
    assert f"{side} is {value}; " in error["details"] and f"the nearest is {nearest}" in error["details"]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"task": "edit", "prompt": " ", "object": "", "template": ""}, "prompt is empty"),
        ({"task": "subject-driven", "object": "", "template": ""}, "object is empty"),
        ({"object": "", "template": "{prompt} {size}"}, "{size}"),
        ({"task": "draw"}, "expected one of text to image"),
    ],
)
def test_a_prompt_that_cannot_be_written_is_one_error_before_the_run(server, inputs, expected):
    workflow = text_to_image()
    workflow[PROMPT]["inputs"] |= inputs
    (error,) = server.queue(workflow)["node_errors"][PROMPT]["errors"]
    assert expected in error["details"]


@pytest.mark.parametrize(
    ("name", "value"), [("cfg", -1.0), ("top_k", 0), ("temperature", 0.0), ("top_p", 0.0), ("window", 0)]
)
def test_a_setting_out_of_range_is_refused_before_the_run(server, name, value):
    assert "smaller than min" in refused(server.queue(text_to_image(**{name: value})), SAMPLER)


def test_a_draft_tree_for_a_decoder_without_one_is_one_line_on_the_sampler(server):
    run = server.run(text_to_image(decoder="sjd", tree="16"))
    assert run.error["node_id"] == SAMPLER
    assert run.error["exception_message"].startswith("tree is 16 with the decoder sjd")
    assert "not in list" in refused(server.queue(text_to_image(tree="17")), SAMPLER)


def test_an_unknown_checkpoint_or_decoder_is_refused_before_the_run(server):
    assert "not in list" in refused(server.queue(text_to_image(checkpoint="../../etc")), MODEL)
    assert "not in list" in refused(server.queue(text_to_image(decoder="magic")), SAMPLER)


def test_a_size_that_does_not_fit_names_the_nearest_trained_size(server):
    run = server.run(text_to_image(width=2048, height=2048))
    assert run.error["node_id"] == SAMPLER and run.error["exception_type"] == "ValueError"
    assert "2048x2048" in run.error["exception_message"] and "trained on is 96x96" in run.error["exception_message"]


def test_a_window_larger_than_what_is_left_is_clamped(server):
    run = server.run(text_to_image(width=64, height=64, window=72))
    assert run.succeeded, run.error
    assert "window 71" in run.outputs[REPORT]["text"][0]


def test_a_truncated_checkpoint_is_an_error(server, checkpoint):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    run = server.run(text_to_image(checkpoint="broken"))
    assert run.error["node_id"] == MODEL
    assert "model.safetensors" in run.error["exception_message"]
    assert run.error["exception_type"] == "ValueError"


def test_a_replaced_file_is_loaded_again(server, checkpoint):
    assert server.run(text_to_image(checkpoint="broken")).succeeded
    (checkpoint / "tokenizer.json").write_text("{}")
    assert server.run(text_to_image(checkpoint="broken")).error["node_id"] == MODEL


def test_a_file_without_a_movqgan_is_an_error(server, tmp_path):
    path = server.base / "models" / "vae" / "other.safetensors"
    shutil.copy(PACK / "lumina_core" / "demo" / "model.safetensors", path)
    run = server.run(text_to_image(movqgan="other.safetensors"))
    path.unlink()
    assert run.error["node_id"] == MOVQGAN and "not a MoVQGAN" in run.error["exception_message"]


def test_a_movqgan_of_another_model_is_an_error(server):
    path = server.base / "models" / "vae" / "wide.safetensors"
    shutil.copy(GOLDEN / "movqgan" / "f8_wide" / "movqgan.safetensors", path)
    run = server.run(text_to_image(movqgan="wide.safetensors"))
    path.unlink()
    assert run.error["node_id"] in (MODEL, SAMPLER) and "codes" in run.error["exception_message"]


def test_a_vae_of_another_model_is_an_error(server):
    workflow = text_to_image()
    workflow[MOVQGAN] = node("VAELoader", vae_name="pixel_space")
    run = server.run(workflow)
    assert run.error["node_id"] == SAMPLER and "Load MoVQGAN" in run.error["exception_message"]


def test_the_server_still_works(server):
    assert server.run(text_to_image(seed=99)).succeeded
