"""The first minutes of a user: a graph of defaults draws; errors, warnings, progress and cancelled runs are told."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from browser import Ended, Tab
from checkpoints import checkpoint
from PIL import Image
from truths import faults
from workflows import DECODE, MOVQGAN, node, text_to_image
from workflows import PROMPT as PROMPT_NODE
from workflows import SAMPLER as SAMPLER_NODE

from training.world import Scene, SceneObject, render

LOADER, PROMPT, SAMPLER = (f"LuminaMGPT2_{name}" for name in ("LoadModel", "TaskPrompt", "SJDSampler"))
NODES = {
    "loader": (LOADER, 50, 50),
    "prompt": (PROMPT, 50, 350),
    "sampler": (SAMPLER, 550, 50),
    "decode": ("VAEDecode", 950, 50),
    "save": ("SaveImage", 950, 250),
}
LINKS = [
    ("loader", "model", "sampler", "model"),
    ("loader", "vae", "sampler", "vae"),
    ("prompt", "prompt", "sampler", "prompt"),
    ("sampler", "latent", "decode", "samples"),
    ("loader", "vae", "decode", "vae"),
    ("decode", "IMAGE", "save", "images"),
]
CAPTION = "a cat"
TEXT = "$$node-text-preview"
# So many tokens that a run takes some seconds on any machine.
MANY = {"batch_size": 16, "decoder": "ar"}
PICTURE, STITCH = "20", "21"
WEIGHTS = {"likelihood_weight": -1.0, "weight_1": 1.0, "weight_2": 1.0, "weight_3": 1.0}
TIME = r"(\d+ min( \d+ s)?|[\d.]+ s)"


def graph(tab: Tab, caption: str = CAPTION, unlinked: str = "") -> dict[str, str]:
    """The graph of a new user, with a prompt typed; no link comes from the node `unlinked`. Returns ids by name."""
    ids = tab.make(NODES, [link for link in LINKS if link[0] != unlinked])
    tab.page.locator("textarea:visible").first.fill(caption)
    return ids


def check_right(tab: Tab, run: Ended) -> None:
    shown = tab.pictures(run)
    assert [picture.shape for pictures in shown.values() for picture in pictures] == [(96, 96, 3)]
    assert faults(run.prompt, shown) == (1, [])


# The first run


def test_a_graph_of_defaults_draws_at_the_first_run(tab):
    ids = graph(tab)
    run = tab.run()
    check_right(tab, run)
    assert run.prompt[ids["sampler"]]["inputs"]["seed"] == 0


@pytest.mark.parametrize("place", ["lumina_mgpt2/converted.safetensors", "diffusion_models/folder"])
def test_a_checkpoint_that_lies_there_is_the_default_and_draws(classic, vue, place):
    """One place in each rendering."""
    tab = vue if place.endswith("folder") else classic
    try:
        with checkpoint(tab.server, place):
            tab.command("Comfy.RefreshNodeDefinitions")
            ids = graph(tab)
            assert tab.widgets(ids["loader"])["checkpoint"] == place.partition("/")[2]
            check_right(tab, tab.run())
    finally:
        tab.command("Comfy.RefreshNodeDefinitions")


def test_a_saved_picture_restores_its_graph(tab, tmp_path):
    ids = graph(tab)
    for name, value in {"cfg": 3.5, "top_k": 2000, "window": 7, "seed": 12}.items():
        tab.set_widget(ids["sampler"], name, value)
    before = {kind: tab.widgets(*tab.nodes_of(kind)) for kind in (LOADER, PROMPT, SAMPLER, "SaveImage")}
    run = tab.run()
    (file,) = tab.files(run, ids["save"])
    (tmp_path / "saved.png").write_bytes(file)
    tab.reset()
    tab.page.set_input_files("#comfy-file-input", tmp_path / "saved.png")
    tab.wait(f"app.graph.nodes.length === {len(NODES)}")
    assert {kind: tab.widgets(*tab.nodes_of(kind)) for kind in before} == before
    assert tab.run().prompt == run.prompt


# Progress, cancel, free


def test_the_node_tells_progress_and_the_time_that_a_run_took(tab):
    ids = graph(tab)
    tab.set_widget(ids["sampler"], "seed", 70 + len(tab.rendering))  # no run of another test
    tab.run()
    told = tab.page.get_by_text(re.compile(rf"^144 tokens in {TIME} \([\d,.]+/s\)$"))
    told.wait_for()
    assert told.inner_text() == tab.widgets(ids["sampler"])[TEXT]


def test_a_cancelled_run_can_be_run_again_and_memory_be_freed(tab):
    ids = graph(tab)
    for name, value in MANY.items():
        tab.set_widget(ids["sampler"], name, value)
    prompt_id = tab.queue()["prompt_id"]
    tab.page.get_by_text(re.compile(r"[\d,]+ of 2,304 tokens")).wait_for()
    tab.cancel()
    assert tab.end(prompt_id) == "execution_interrupted"
    tab.page.get_by_text(re.compile(r"stopped after [\d,]+ of 2,304 tokens|rows are drawn and kept")).wait_for()
    shutil.rmtree(tab.server.base / "output" / "lumina_mgpt2", ignore_errors=True)
    assert not tab.page.locator("[data-testid=error-overlay]").count()
    for name, value in {"batch_size": 1, "decoder": "gumbel", "control_after_generate": "fixed"}.items():
        tab.set_widget(ids["sampler"], name, value)
    pictures = []
    for seed in (3, 4, 4):
        tab.set_widget(ids["sampler"], "seed", seed)
        run = tab.run()
        assert ids["sampler"] not in run.cached
        ((picture,),) = tab.pictures(run).values()
        pictures.append(picture.tobytes())
        tab.server.free(lambda: tab.command("Comfy.Memory.UnloadModelsAndExecutionCache"))
    assert pictures[0] != pictures[1] == pictures[2]


# Errors as text


def test_a_size_that_does_not_fit_is_told_in_a_sentence(tab, tmp_path):
    ids = graph(tab)
    tab.set_widget(ids["prompt"], "width", 2048)
    assert tab.end(tab.queue()["prompt_id"]) == "execution_error"
    assert "Lumina Sampler failed" in tab.error_overlay()
    panel = tab.error_panel("Exception Message")
    tab.page.screenshot(path=tmp_path / "panel.png")
    told, _, traceback = panel.partition("## Stack Trace")
    assert "Exception Type: ValueError" in told.replace("*", "")
    sentence = "Exception Message: ValueError: the size is 2048x96; expected sides of at most 1024"
    assert sentence in told.replace("*", "") and "trained on is 96x96" in told
    assert "custom_nodes" not in told and "InputError" not in told and traceback


def test_a_prompt_that_is_missing_is_told_before_the_run(tab):
    ids = graph(tab, caption=" ")
    tab.set_widget(ids["prompt"], "task", "edit")
    (errors,) = tab.queue()["node_errors"].values()
    assert len(errors["errors"]) == 1
    overlay = tab.error_overlay()
    assert "Lumina Prompt" in overlay and "prompt is empty, which this task needs" in overlay
    assert "Lumina Prompt" in tab.error_panel()


def test_a_link_that_is_missing_is_named_with_its_node(tab):
    graph(tab, unlinked="prompt")
    assert "prompt_id" not in tab.queue()
    assert "Lumina Sampler is missing a required input: prompt" in tab.error_overlay()
    assert "Lumina Sampler - prompt" in tab.error_panel()


# Warnings on the node


def stitched(picture: str, **prompt) -> dict:
    """A text-to-image prompt on a canvas whose upper panel is given."""
    workflow = text_to_image(**prompt)
    workflow[PICTURE] = node("LoadImage", image=picture)
    workflow[STITCH] = node("LuminaMGPT2_StitchPanels", image=[PICTURE, 0], vae=[MOVQGAN, 0], width=96, height=192)
    for name in (PROMPT_NODE, SAMPLER_NODE):
        workflow[name]["inputs"]["canvas"] = [STITCH, 0]
    return workflow


def told_on_the_node(run) -> str:
    assert run.succeeded, run.error
    return [text for name, text in run.texts if name == SAMPLER_NODE][-1]


def test_a_size_that_the_model_was_not_trained_on_is_told(server):
    told = told_on_the_node(server.run(text_to_image(width=64, height=64)))
    assert "The model was not trained on pictures of 64x64; the nearest size is 96x96." in told
    assert re.search(r"^64 tokens in ", told, re.MULTILINE)
    assert "not trained" not in told_on_the_node(server.run(text_to_image(seed=60)))


def test_a_prompt_that_ignores_the_canvas_is_told(server, conditions):
    first, _ = conditions
    told = told_on_the_node(server.run(stitched(first)))
    assert "The canvas has an upper panel, and the task text to image ignores it: choose another task." in told
    workflow = stitched(first, task="edit", prompt="make the square green")
    assert "canvas" not in told_on_the_node(server.run(workflow))
    del workflow[SAMPLER_NODE]["inputs"]["canvas"]
    refused = server.run(workflow)
    assert refused.error["node_id"] == SAMPLER_NODE and "Stitch Panels" in refused.error["exception_message"]


# Split Panels after Best of N


@pytest.fixture
def conditions(server):
    """Two pictures in the input folder, that differ in one small object."""
    scenes = [Scene("white", (SceneObject("square", "red", "small", 8, y),)) for y in (8, 40)]
    paths = [server.base / "input" / f"condition{k}.png" for k in range(len(scenes))]
    for path, scene in zip(paths, scenes, strict=True):
        Image.fromarray(render(scene)).save(path)
    yield [path.name for path in paths]
    for path in paths:
        path.unlink()


def test_each_of_the_best_pictures_has_its_own_given_panel(server, conditions):
    """Two canvases, two pictures drawn on each, and the best three of the four: in another order than drawn."""
    drawing = {"batch_size": 2, "seed": 62, "temperature": 3.0}
    workflow = stitched(conditions[0], task="edit", prompt="add a blue star", **drawing)
    workflow |= {
        "31": node("LoadImage", image=conditions[1]),
        "32": node("ImageBatch", image1=[PICTURE, 0], image2=["31", 0]),
        "33": node("LuminaMGPT2_BestOfN", images=[DECODE, 0], latent=[SAMPLER_NODE, 0], keep=3, **WEIGHTS),
        "34": node("LuminaMGPT2_SplitPanels", image=["33", 0], canvas=[STITCH, 0]),
        "35": node("PreviewImage", images=["34", 0]),
        "36": node("PreviewAny", source=["33", 3]),
    }
    workflow[STITCH]["inputs"]["image"] = ["32", 0]
    run = server.run(workflow)
    assert run.succeeded, run.error
    order = [int(line.split()[1]) for line in run.outputs["36"]["text"][0].splitlines()[1:]]
    given = [np.asarray(Image.open(server.base / "input" / name)) for name in conditions]
    uppers = [np.asarray(picture) for picture in server.pictures(run, "35")]
    assert len(uppers) == 3 and [k // 2 for k in order[:3]] != [0, 0, 1]
    assert [np.array_equal(upper, given[k // 2]) for upper, k in zip(uppers, order, strict=False)] == [True] * 3
