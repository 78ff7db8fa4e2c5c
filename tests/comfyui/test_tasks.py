"""Tasks that start from a picture: canvases, and the inputs that a user may connect."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from workflows import MODEL, MOVQGAN, PROMPT, SAMPLER, node, text_to_image

from lumina_core.pictures.images import load_picture
from lumina_core.pictures.panels import condition_panel
from lumina_core.tokens.prompts import build_prompt

PICTURE, STITCH, DECODE, SPLIT, WHOLE, UPPER, LOWER, SHOWN, TEXT = (f"{n}0" for n in range(1, 10))


def conditioned(picture: str, stitch: dict | None = None, **prompt) -> dict:
    """Draws below a picture, with its alpha, on a 96x192 canvas. `prompt` sets inputs of Lumina Prompt."""
    workflow = {name: one for name, one in text_to_image().items() if name in (MODEL, MOVQGAN, PROMPT, SAMPLER)}
    workflow |= {
        PICTURE: node("LoadImage", image=picture),
        STITCH: stitch or node("LuminaMGPT2_StitchPanels", width=96, height=192),
        DECODE: node("VAEDecode", samples=[SAMPLER, 0], vae=[MOVQGAN, 0]),
        SPLIT: node("LuminaMGPT2_SplitPanels", image=[DECODE, 0], canvas=[STITCH, 0]),
        WHOLE: node("SaveImage", images=[SPLIT, 2], filename_prefix="tasks"),
        UPPER: node("PreviewImage", images=[SPLIT, 0]),
        LOWER: node("PreviewImage", images=[SPLIT, 1]),
        SHOWN: node("PreviewImage", images=[STITCH, 1]),
        TEXT: node("PreviewAny", source=[PROMPT, 1]),
    }
    workflow[STITCH]["inputs"] |= {"image": [PICTURE, 0], "mask": [PICTURE, 1], "vae": [MOVQGAN, 0]}
    workflow[PROMPT]["inputs"] |= {"task": "edit", "prompt": "make it green", "canvas": [STITCH, 0], **prompt}
    workflow[SAMPLER]["inputs"]["canvas"] = [STITCH, 0]
    return workflow


@pytest.fixture
def save(server):
    """Saves a picture or pixels in the server's input folder."""
    saved = []

    def one(picture: Image.Image | np.ndarray, name: str = "condition.png") -> Path:
        saved.append(server.base / "input" / name)
        picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
        picture.save(saved[-1])
        return saved[-1]

    yield one
    for path in saved:
        path.unlink(missing_ok=True)


def noise(width: int, height: int, channels: int = 3) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return values[..., 0] if channels == 1 else values


def pixels(server, run, node_id: str) -> list[np.ndarray]:
    assert run.succeeded, run.error
    return [np.asarray(picture) for picture in server.pictures(run, node_id)]


def message(run) -> str:
    assert run.error is not None
    return run.error["exception_message"]


# Lumina Prompt


@pytest.mark.parametrize(
    ("task", "label", "inputs"),
    [
        ("control", "controllable", {"map": "canny"}),
        ("subject", "subject-driven", {"object": "a red mug"}),
        ("subject-released", "subject-driven (released program)", {"object": "a red mug"}),
        ("edit", "edit", {"map": "pose", "object": "ignored"}),
        ("predict", "predict", {"map": "hed"}),
    ],
)
def test_the_full_prompt_has_the_size_of_the_canvas(server, save, task, label, inputs):
    path = save(noise(96, 96))
    run = server.run(conditioned(path.name, task=label, prompt="a cup", **inputs))
    assert run.succeeded, run.error
    used = {name: value for name, value in inputs.items() if task != "edit"}
    assert run.outputs[TEXT]["text"] == [build_prompt(task, 96, 192, "a cup", **used)]


def test_the_canvas_of_the_sampler_overrides_the_size_of_the_prompt(server, save):
    path = save(noise(96, 96))
    both = server.run(conditioned(path.name))
    workflow = conditioned(path.name)
    del workflow[PROMPT]["inputs"]["canvas"]
    workflow[PROMPT]["inputs"] |= {"width": 512, "height": 32}
    assert np.array_equal(pixels(server, both, WHOLE), pixels(server, server.run(workflow), WHOLE))


def test_a_custom_template(server):
    workflow = text_to_image(prompt="a cup")
    workflow["text"] = node("PreviewAny", source=[PROMPT, 1])
    workflow[PROMPT]["inputs"]["template"] = "Draw {prompt} at {width} by {height}."
    assert server.run(workflow).outputs["text"]["text"] == ["Draw a cup at 96 by 96."]
    for template, expected in (("Draw {prompt}.", "lacks {width}, {height}"), ("{size} {prompt}", "{size}")):
        workflow[PROMPT]["inputs"]["template"] = template
        run = server.run(workflow)
        assert run.error["node_id"] == PROMPT and expected in message(run)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"task": "subject-driven", "object": " "}, "object is empty, which this task needs"),
        ({"task": "edit", "prompt": ""}, "prompt is empty, which this task needs"),
    ],
)
def test_a_missing_input_of_the_task_is_an_error(server, inputs, expected):
    workflow = text_to_image()
    workflow[PROMPT]["inputs"] |= inputs
    run = server.run(workflow)
    assert run.error["node_id"] == PROMPT and expected in message(run)


@pytest.mark.parametrize("task", ["controllable", "subject-driven", "edit", "predict"])
def test_a_task_without_its_picture_is_an_error(server, task):
    workflow = text_to_image()
    workflow[PROMPT]["inputs"] |= {"task": task, "map": "depth", "object": "a cup"}
    run = server.run(workflow)
    assert run.error["node_id"] == SAMPLER and "connect Stitch Panels" in message(run)


# Conditions


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(noise(96, 96), id="as large as the panel"),
        pytest.param(noise(70, 90, 4), id="alpha"),
        pytest.param(noise(1, 500), id="one pixel wide"),
        pytest.param(noise(1, 1), id="one pixel"),
        pytest.param(noise(2500, 1800), id="huge"),
    ],
)
def test_the_given_panel_is_preprocessed_as_in_the_published_program(server, save, picture):
    path = save(picture)
    run = server.run(conditioned(path.name))
    (whole,), (upper,), (lower,) = (pixels(server, run, name) for name in (WHOLE, UPPER, LOWER))
    assert np.array_equal(upper, np.asarray(condition_panel(load_picture(path), 96, 192)))
    assert np.array_equal(whole, np.concatenate([upper, lower])) and lower.shape == (96, 96, 3)


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(noise(96, 96, 1), id="grey"),
        pytest.param(np.arange(0, 96 * 96 * 7, 7, dtype=np.uint16).reshape(96, 96), id="16 bits"),
    ],
)
def test_grey_and_16_bit_pictures_match_load_image(server, save, picture):
    workflow = conditioned(save(picture).name)
    workflow["loaded"] = node("PreviewImage", images=[PICTURE, 0])
    run = server.run(workflow)
    (loaded,), (upper,) = pixels(server, run, "loaded"), pixels(server, run, UPPER)
    # Save Image truncates; the panel rounds.
    assert np.abs(upper.astype(int) - loaded).max() <= 1


def test_reconstruct_keeps_the_decoded_given_rows(server, save):
    workflow = conditioned(save(noise(96, 96)).name)
    workflow["decoded"] = node("PreviewImage", images=[DECODE, 0])
    workflow[SPLIT]["inputs"]["reconstruct"] = True
    run = server.run(workflow)
    (decoded,), (whole,) = pixels(server, run, "decoded"), pixels(server, run, WHOLE)
    assert np.array_equal(decoded, whole) and not np.array_equal(whole[:96], noise(96, 96))


def test_one_condition_for_all_pictures_of_a_batch(server, save):
    workflow = conditioned(save(noise(96, 96)).name)
    workflow[SAMPLER]["inputs"] |= {"batch_size": 3, "seed": 20}
    batch = pixels(server, server.run(workflow), WHOLE)
    assert len(batch) == 3 and all(np.array_equal(one[:96], noise(96, 96)) for one in batch)
    workflow[SAMPLER]["inputs"] |= {"batch_size": 1, "seed": 22}
    (alone,) = pixels(server, server.run(workflow), WHOLE)
    assert np.array_equal(batch[2], alone)


@pytest.mark.parametrize("each", [1, 2])
def test_a_batch_of_conditions_has_a_picture_for_each(server, save, each):
    pictures = [noise(96, 96), 255 - noise(96, 96)]
    first, second = (save(picture, f"condition{k}.png") for k, picture in enumerate(pictures))
    workflow = conditioned(first.name)
    workflow["second"] = node("LoadImage", image=second.name)
    workflow["batch"] = node("ImageBatch", image1=[PICTURE, 0], image2=["second", 0])
    workflow[STITCH]["inputs"]["image"] = ["batch", 0]
    workflow[SAMPLER]["inputs"] |= {"seed": 30, "batch_size": each}
    batch = pixels(server, server.run(workflow), WHOLE)
    assert [np.array_equal(one[:96], pictures[k // each]) for k, one in enumerate(batch)] == [True] * 2 * each
    alone = conditioned(second.name)
    alone[SAMPLER]["inputs"]["seed"] = 30 + each
    (picture,) = pixels(server, server.run(alone), WHOLE)
    assert np.array_equal(batch[each], picture)


def test_a_list_of_conditions_of_different_sizes_has_a_picture_for_each(server):
    """Pictures of different sizes arrive as a list, and ComfyUI runs every node once for each."""
    loader = "LoadImageDataSetFromFolder"
    if loader not in server.get("/object_info"):
        pytest.skip(f"this ComfyUI has no {loader}")
    folder = server.base / "input" / "conditions"
    folder.mkdir()
    try:
        for name, size in (("a.png", (96, 96)), ("b.png", (200, 90)), ("c.png", (30, 77))):
            Image.fromarray(noise(*size)).save(folder / name)
        workflow = conditioned("unused.png")
        workflow[PICTURE] = node(loader, folder="conditions")
        del workflow[STITCH]["inputs"]["mask"]
        drawn = pixels(server, server.run(workflow), WHOLE)
        given = {condition_panel(load_picture(path), 96, 192).tobytes() for path in folder.iterdir()}
    finally:
        shutil.rmtree(folder)
    assert {picture[:96].tobytes() for picture in drawn} == given and len(drawn) == 3


def test_a_mask_of_another_size_is_an_error(server, save):
    workflow = conditioned(save(noise(96, 96)).name)
    workflow["mask"] = node("SolidMask", value=1.0, width=32, height=32)
    workflow[STITCH]["inputs"]["mask"] = ["mask", 0]
    run = server.run(workflow)
    assert run.error["node_id"] == STITCH and "(1, 32, 32)" in message(run) and "(1, 96, 96)" in message(run)


def test_a_size_off_the_grid_is_refused_before_the_run(server, save):
    workflow = conditioned(save(noise(96, 96)).name, node("LuminaMGPT2_StitchPanels", width=96, height=100))
    assert "height is 100; expected a multiple of 32" in str(server.queue(workflow)["node_errors"][STITCH])


def test_a_canvas_that_does_not_fit_the_picture_is_an_error(server, save):
    workflow = conditioned(save(noise(96, 96)).name)
    workflow["other"] = node("EmptyImage", width=64, height=64, batch_size=1, color=0)
    workflow[SPLIT]["inputs"]["image"] = ["other", 0]
    run = server.run(workflow)
    assert run.error["node_id"] == SPLIT and "64x64" in message(run) and "96x192" in message(run)


def test_a_picture_of_odd_height_cannot_be_split_in_the_middle(server):
    workflow = {
        "1": node("EmptyImage", width=64, height=65, batch_size=1, color=0),
        "2": node("LuminaMGPT2_SplitPanels", image=["1", 0]),
        "3": node("PreviewImage", images=["2", 0]),
    }
    assert "65 high" in message(server.run(workflow))


# Continue Picture


@pytest.mark.parametrize("given_height", [8, 40, 88])
def test_a_picture_is_continued_from_any_number_of_rows(server, save, given_height):
    stitch = node("LuminaMGPT2_ContinuePicture", width=96, height=96, given_height=given_height)
    workflow = conditioned(save(noise(96, 144)).name, stitch, task="text to image")
    (whole,) = pixels(server, server.run(workflow), WHOLE)
    assert whole.shape == (96, 96, 3) and np.array_equal(whole[:given_height], noise(96, 144)[:given_height])


def test_previews_show_the_given_rows_and_grow_below_them(server, save):
    square = np.full((96, 96, 3), 255, np.uint8)
    square[16:40, 16:40] = (220, 30, 35)
    # On white, since grey marks rows that are still to be drawn.
    workflow = conditioned(save(square).name, prompt="make the square green")
    workflow[SAMPLER]["inputs"]["decoder"] = "ar"
    previews = server.run(workflow).previews
    assert len(previews) > 1
    grey = [np.abs(np.asarray(picture).astype(int) - 128).max(axis=(1, 2)) < 24 for picture in previews]
    drawn = [1 - rows[::-1].argmin() / len(rows) for rows in grey]
    assert drawn == sorted(drawn) and 0.5 <= drawn[0] < drawn[-1]


@pytest.mark.parametrize(
    ("given_height", "expected"),
    [(96, "multiple of 8 from 8 to 88"), (12, "multiple of 8"), (88, "is 48 high at the canvas's width of 96")],
)
def test_a_wrong_given_height_is_an_error(server, save, given_height, expected):
    stitch = node("LuminaMGPT2_ContinuePicture", width=96, height=96, given_height=given_height)
    run = server.run(conditioned(save(noise(192, 96)).name, stitch, task="text to image"))
    assert run.error["node_id"] == STITCH and expected in message(run)


def test_the_given_rows_are_encoded_once(server, save):
    """Another seed does not run Stitch Panels again."""
    workflow = conditioned(save(noise(96, 96)).name)
    server.run(workflow)
    workflow[SAMPLER]["inputs"]["seed"] = 77
    again = server.run(workflow)
    assert again.succeeded and STITCH not in again.executed and SAMPLER in again.executed


def test_the_server_still_works(server):
    assert server.run(text_to_image(seed=98)).succeeded
