"""Pictures of which a mask marks what is drawn: Inpaint Picture, core latents with a noise mask, and masked edits."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from truths import is_true
from workflows import DECODE, MOVQGAN, SAMPLER, SAVE, node, text_to_image

from training.world import COLOURS, Scene, SceneObject, render

PICTURE, CANVAS, HOLE, ALL, MASK, ENCODE, SPLIT, SHOWN = (f"{n}0" for n in range(1, 9))
NEAR = 60
WITHIN = (slice(0, 40), slice(48, 96))  # rows and columns of the hole
SCENE = Scene(
    "white",
    (
        SceneObject("circle", "red", "large", 8, 0),
        SceneObject("square", "blue", "large", 56, 0),
        SceneObject("star", "yellow", "small", 8, 56),
    ),
)
CAPTION = "a red circle, an orange cross and a yellow star on a white background"


@pytest.fixture(scope="module")
def given(server):
    """The scene as a file in the input folder."""
    path = server.base / "input" / "scene.png"
    Image.fromarray(render(SCENE)).save(path)
    yield path.name
    path.unlink()


def mask_nodes(hole: tuple[int, int] = (48, 40), place: tuple[int, int] = (48, 0), side: int = 96) -> dict:
    """Core nodes that mark a hole of a width and height in a square mask."""
    return {
        ALL: node("SolidMask", value=0.0, width=side, height=side),
        HOLE: node("SolidMask", value=1.0, width=hole[0], height=hole[1]),
        MASK: node("MaskComposite", destination=[ALL, 0], source=[HOLE, 0], x=place[0], y=place[1], operation="add"),
    }


def inpaint(picture: str, prompt: str = CAPTION, **changes) -> dict:
    """Draws the hole in a picture; its own pixels are put back. `changes` as of `text_to_image`."""
    workflow = text_to_image(prompt, **changes) | mask_nodes()
    workflow[PICTURE] = node("LoadImage", image=picture)
    sizes = {"width": 0, "height": 0}
    workflow[CANVAS] = node("LuminaMGPT2_InpaintPicture", image=[PICTURE, 0], vae=[MOVQGAN, 0], mask=[MASK, 0], **sizes)
    workflow[SAMPLER]["inputs"]["canvas"] = [CANVAS, 0]
    workflow[SPLIT] = node("LuminaMGPT2_SplitPanels", image=[DECODE, 0], canvas=[CANVAS, 0])
    workflow[SAVE]["inputs"]["images"] = [SPLIT, 2]
    workflow[SHOWN] = node("PreviewImage", images=[CANVAS, 1])
    return workflow


def with_latent(picture: str, encode: dict, prompt: str = CAPTION, **changes) -> dict:
    """Draws under the noise mask of a latent; ImageCompositeMasked puts the picture's own pixels back."""
    workflow = text_to_image(prompt, **changes) | mask_nodes()
    workflow[PICTURE] = node("LoadImage", image=picture)
    workflow |= encode
    workflow[SAMPLER]["inputs"]["latent_image"] = [ENCODE, 0]
    composite = {"destination": [PICTURE, 0], "source": [DECODE, 0], "mask": [MASK, 0], "x": 0, "y": 0}
    workflow[SPLIT] = node("ImageCompositeMasked", resize_source=False, **composite)
    workflow[SAVE]["inputs"]["images"] = [SPLIT, 0]
    workflow[SHOWN] = node("PreviewImage", images=[DECODE, 0])
    return workflow


LATENT = {
    CANVAS: node("VAEEncode", pixels=[PICTURE, 0], vae=[MOVQGAN, 0]),
    ENCODE: node("SetLatentNoiseMask", samples=[CANVAS, 0], mask=[MASK, 0]),
}
FOR_INPAINTING = {
    ENCODE: node("VAEEncodeForInpaint", pixels=[PICTURE, 0], vae=[MOVQGAN, 0], mask=[MASK, 0], grow_mask_by=0)
}


def pixels(server, run, node_id: str = SAVE) -> np.ndarray:
    assert run.succeeded, run.error
    (picture,) = server.pictures(run, node_id)
    return np.asarray(picture)


def outside(picture: np.ndarray) -> np.ndarray:
    """The pixels that are not in the hole, in a row."""
    kept = np.ones(picture.shape[:2], bool)
    kept[WITHIN] = False
    return picture[kept]


def told(run) -> str:
    assert run.error is not None and run.error["node_id"] == SAMPLER
    return run.error["exception_message"]


def test_inpaint_picture_draws_the_hole_and_keeps_every_other_pixel(server, given):
    run = server.run(inpaint(given))
    whole = pixels(server, run)
    assert is_true({"task": "text to image", "prompt": CAPTION}, whole)
    assert np.array_equal(outside(whole), outside(render(SCENE)))
    view = pixels(server, run, SHOWN)
    assert (view[WITHIN] == 127).all() and np.array_equal(outside(view), outside(render(SCENE)))


def test_a_latent_with_a_noise_mask_draws_the_codes_of_a_canvas(server, given):
    run = server.run(with_latent(given, LATENT))
    whole, decoded = pixels(server, run), inpaint(given)
    assert is_true({"task": "text to image", "prompt": CAPTION}, whole)
    assert np.array_equal(outside(whole), outside(render(SCENE)))
    decoded[SHOWN]["inputs"]["images"] = [DECODE, 0]
    assert np.array_equal(pixels(server, server.run(decoded), SHOWN), pixels(server, run, SHOWN))


def test_the_latent_of_vae_encode_for_inpainting_is_drawn_under_its_mask(server, given):
    """Its hole is grey before it is encoded, which changes the codes around it, so the background is another one."""
    whole = pixels(server, server.run(with_latent(given, FOR_INPAINTING)))
    assert np.array_equal(outside(whole), outside(render(SCENE)))
    is_orange = np.abs(whole[WITHIN].astype(int) - COLOURS["orange"]).max(-1) < NEAR
    assert 0.05 < is_orange.mean() < 0.5


def test_a_latent_beside_a_canvas_or_without_a_noise_mask_is_an_error(server, given):
    both = inpaint(given)
    both |= {"encode": LATENT[CANVAS], "masked": node("SetLatentNoiseMask", samples=["encode", 0], mask=[MASK, 0])}
    both[SAMPLER]["inputs"]["latent_image"] = ["masked", 0]
    assert "canvas and latent_image are both connected" in told(server.run(both))
    bare = with_latent(given, LATENT)
    bare[SAMPLER]["inputs"]["latent_image"] = [CANVAS, 0]
    assert "the latent has no noise mask" in told(server.run(bare))


def test_a_mask_of_another_size_is_scaled(server, given):
    scaled = inpaint(given) | mask_nodes((192, 160), (192, 0), 384)
    assert np.array_equal(pixels(server, server.run(scaled)), pixels(server, server.run(inpaint(given))))


def test_a_full_mask_draws_the_picture_of_the_prompt_alone(server, given):
    full = inpaint(given)
    full[CANVAS]["inputs"]["mask"] = ["full", 0]
    full["full"] = node("SolidMask", value=1.0, width=96, height=96)
    alone = pixels(server, server.run(text_to_image(CAPTION)))
    assert np.array_equal(pixels(server, server.run(full)), alone)


def test_an_empty_mask_is_an_error(server, given):
    empty = inpaint(given)
    empty[CANVAS]["inputs"]["mask"] = [ALL, 0]
    run = server.run(empty)
    assert run.error["node_id"] == CANVAS and "the mask is empty" in run.error["exception_message"]


def test_a_masked_edit_keeps_the_lower_panel_outside_of_the_mask(server, given):
    workflow = inpaint(given, "make the square green", task="edit", seed=1)
    inputs = {"image": [PICTURE, 0], "vae": [MOVQGAN, 0], "edit_mask": [MASK, 0]}
    workflow[CANVAS] = node("LuminaMGPT2_StitchPanels", width=96, height=192, **inputs)
    whole = pixels(server, server.run(workflow))
    upper, lower = np.split(whole, 2)
    assert np.array_equal(upper, render(SCENE)) and np.array_equal(outside(lower), outside(upper))
    assert is_true({"task": "edit", "prompt": "make the square green"}, whole)


def test_a_cancelled_masked_run_is_run_again_and_another_seed_encodes_nothing_anew(server, given):
    first = pixels(server, server.run(inpaint(given, seed=40, temperature=3.0)))
    again = inpaint(given, seed=41, temperature=3.0)
    assert server.run(again, cancel_at=2).interrupted_at == SAMPLER
    assert not list((server.base / "output").glob("lumina_mgpt2/*seed_41*"))
    run = server.run(again)
    second = pixels(server, run)
    assert CANVAS not in run.executed and not np.array_equal(first, second)
    again[SAMPLER]["inputs"]["window"] = 8
    assert np.array_equal(pixels(server, server.run(again)), second)
