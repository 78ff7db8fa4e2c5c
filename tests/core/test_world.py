"""The demo world: captions are true, the recogniser reads pictures back, the judge says no to wrong pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from training.world import (
    BACKGROUNDS,
    CANVAS,
    CATEGORIES,
    COLOURS,
    GRID,
    KINDS,
    PLACES,
    PLAIN,
    SHAPES,
    Claim,
    Recognised,
    Sample,
    Scene,
    SceneObject,
    Spec,
    fresh_samples,
    judge,
    judge_strict,
    recognise,
    render,
    sample,
    scene_of,
    shape_mask,
    training_rng,
)
from training.world.scenes import ground_cells, with_details

ALL_CATEGORIES = (*CATEGORIES, "mixed")
RED_CIRCLE = SceneObject("circle", "red", "small", 8, 16)
BLUE_SQUARE = SceneObject("square", "blue", "large", 48, 16)
CAT = SceneObject("cat", None, "medium", 24, 32)
TWO = (Claim(1, "circle", "red"), Claim(1, "square", "blue"))


def seen(*objects: SceneObject, background: str = "white") -> Recognised:
    return recognise(render(Scene(background, objects)))


def blurred(picture: np.ndarray, radius: float = 0.6, noise: float = 8.0) -> np.ndarray:
    soft = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)), np.float32)
    grain = np.random.default_rng(0).normal(0, noise, picture.shape)
    return np.clip(soft + grain, 0, 255).astype(np.uint8)


def share_true(samples: list[Sample], spoil=lambda picture: picture) -> float:
    return float(np.mean([judge_strict(item.spec, recognise(spoil(render(item.scene)))) for item in samples]))


@pytest.mark.parametrize("category", ALL_CATEGORIES)
def test_captions_are_true_of_rendered_scenes(category):
    assert share_true(fresh_samples(category, 40, seed=0)) >= 0.99


@pytest.mark.parametrize("category", ALL_CATEGORIES)
def test_recogniser_stands_blur_and_noise(category):
    assert share_true(fresh_samples(category, 25, seed=1), blurred) >= 0.95


def test_recogniser_reads_the_whole_scene():
    for item in fresh_samples("mixed", 30, seed=2):
        found = recognise(render(item.scene))
        assert found.background == item.scene.background
        assert set(scene_of(found).objects) == set(item.scene.objects) and len(found.objects) == len(item.scene.objects)


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_every_kind_is_recognised_on_every_background(background):
    """Blurred and in its largest size; a thing that is as white as its ground too."""
    for kind in KINDS:
        thing = SceneObject(kind, "pink" if kind in SHAPES else None, "large", 32, 24)
        scene = with_details(training_rng(0), Scene(background, (thing,)))
        found = recognise(blurred(render(scene), 0.6, 4.0))
        assert (found.background, scene_of(found).objects) == (background, (thing,))


def test_boxes_are_on_the_grid_and_apart():
    rng = training_rng(0)
    for _ in range(300):
        scene = sample(rng).scene
        taken = np.zeros((CANVAS + GRID, CANVAS + GRID), int)
        for thing in scene.objects:
            assert thing.x % GRID == thing.y % GRID == 0 and max(thing.x, thing.y) + thing.side <= CANVAS
            assert thing.x >= GRID
            taken[thing.y : thing.y + thing.side, thing.x - GRID : thing.x + thing.side] += 1
        assert taken.max() == 1


def test_a_seed_gives_the_same_samples_and_fresh_ones_are_others():
    def draw(seed):
        rng = training_rng(seed)
        return [sample(rng) for _ in range(20)]

    assert draw(3) == draw(3) != draw(4)
    assert fresh_samples("colours", 5, 3) == fresh_samples("colours", 5, 3)
    assert fresh_samples("colours", 5, 3) != [sample(rng, "colours") for rng in [training_rng(3)] for _ in range(5)]


def test_captions_name_what_the_spec_claims():
    for item in fresh_samples("colour_attribution", 50, seed=4):
        words = item.caption.lower()
        assert all(claim.kind in words and claim.colour in words for claim in item.spec.claims)
        named = any(
            word in words for word in (*PLACES, "beach", "meadow", "background", *(f"on {one}" for one in PLAIN))
        )
        assert (item.spec.background is not None) == named


@pytest.mark.parametrize("category", ["two_objects", "colour_attribution", "position", "mixed"])
def test_captions_say_in_which_order_objects_are_drawn(category):
    for item in fresh_samples(category, 50, seed=5):
        drawn = [thing.kind for thing in sorted(item.scene.objects, key=lambda thing: (thing.y, thing.x))]
        named = [claim.kind for claim in item.spec.claims]
        assert drawn == (named[::-1] if item.spec.relation in ("right of", "below") else named)


def test_wordings_vary():
    assert len({item.caption for item in fresh_samples("position", 200, seed=5)}) > 190


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_fill_their_box_and_mirror(shape):
    """But for a pixel around most."""
    mask = shape_mask(shape, 24)
    assert mask.shape == (24, 24) and mask[1:-1, 1:-1].any(1).all() and mask[1:-1, 1:-1].any(0).all()
    np.testing.assert_allclose(mask, mask[:, ::-1], atol=1e-6)


def test_colours_are_well_apart():
    """Of shapes among themselves and from every background; one background from another less."""
    inks, grounds = (np.float64([*palette.values()]) for palette in (COLOURS, BACKGROUNDS))
    among = np.linalg.norm(inks[:, None] - inks[None], axis=2) + np.eye(len(inks)) * 1e3
    assert among.min() > 85 and np.linalg.norm(inks[:, None] - grounds[None], axis=2).min() > 60


def test_judge_rejects_swapped_colours():
    spec = Spec("colour_attribution", TWO)
    assert judge(spec, seen(RED_CIRCLE, BLUE_SQUARE))
    assert not judge(spec, seen(replace(RED_CIRCLE, colour="blue"), replace(BLUE_SQUARE, colour="red")))


@pytest.mark.parametrize("category", ["two_objects", "colour_attribution", "mixed"])
def test_judge_rejects_a_missing_object(category):
    for item in fresh_samples(category, 10, seed=6):
        fewer = Scene(item.scene.background, item.scene.objects[1:])
        assert not judge(item.spec, recognise(render(fewer)))


def test_judge_rejects_mirrored_positions():
    for item in fresh_samples("position", 40, seed=7):
        mirrored = np.ascontiguousarray(render(item.scene)[::-1, ::-1])
        assert not judge(item.spec, recognise(mirrored))


def test_judge_rejects_a_wrong_relation():
    picture = seen(RED_CIRCLE, BLUE_SQUARE)
    held = [relation for relation in ("left of", "right of", "above", "below") if judge(_position(relation), picture)]
    assert held == ["left of"]


def _position(relation: str) -> Spec:
    return Spec("position", TWO, relation)


def test_judge_rejects_a_diagonal():
    assert not judge(_position("left of"), seen(RED_CIRCLE, replace(BLUE_SQUARE, y=56)))


@pytest.mark.parametrize("drawn", [1, 2, 4])
def test_judge_rejects_a_wrong_count(drawn):
    corners = [(8, 0), (48, 0), (8, 32), (48, 32)][:drawn]
    stars = [SceneObject("star", "red", "small", x, y) for x, y in corners]
    assert not judge(Spec("counting", (Claim(3, "star", "red"),)), seen(*stars))
    assert judge(Spec("counting", (Claim(drawn, "star", "red"),)), seen(*stars))


def test_judge_rejects_a_wrong_colour_and_a_wrong_shape():
    spec = Spec("colours", (Claim(1, "circle", "red"),))
    assert not judge(spec, seen(replace(RED_CIRCLE, colour="orange")))
    assert not judge(spec, seen(replace(RED_CIRCLE, kind="diamond")))


def test_only_the_strict_judge_asks_for_size_background_and_nothing_else():
    spec = Spec("colours", (Claim(1, "circle", "red", "small"),), background="white")
    wrong = [
        seen(replace(RED_CIRCLE, size="large")),
        seen(RED_CIRCLE, background="gray"),
        seen(RED_CIRCLE, BLUE_SQUARE),
    ]
    assert judge_strict(spec, seen(RED_CIRCLE))
    assert all(judge(spec, picture) and not judge_strict(spec, picture) for picture in wrong)


def test_a_spoiled_shape_is_no_shape():
    picture = render(Scene("white", (SceneObject("star", "green", "large", 16, 16),)))
    picture[16:40] = np.roll(picture[16:40], 16, 1)
    assert all(found.kind is None for found in recognise(picture).objects)


def test_half_a_cat_and_half_a_dog_are_neither():
    picture, other = (render(Scene("sky", (replace(CAT, kind=kind),))) for kind in ("cat", "dog"))
    picture[:48] = other[:48]
    assert [found.kind for found in recognise(picture).objects] == [None]


def test_a_shape_in_two_colours_is_no_object():
    picture = render(Scene("night", (SceneObject("square", "green", "large", 16, 16),)))
    picture[16:56, 16:36] = COLOURS["purple"]
    assert all(found.kind is None for found in recognise(picture).objects)


@pytest.mark.parametrize("place", PLACES)
def test_details_of_a_place_are_no_objects(place):
    scene = with_details(training_rng(1), Scene(place, (CAT,)))
    assert len(set(scene.details)) == 6
    assert [found.kind for found in recognise(render(scene)).objects] == ["cat"]


def test_details_are_kept_where_both_scenes_have_ground():
    before = with_details(training_rng(2), Scene("grass", (CAT,)))
    after = with_details(training_rng(3), Scene("grass", (replace(CAT, x=56),)), before)
    kept = ground_cells(before) & ground_cells(after)
    first, second = (np.frombuffer(scene.details, np.uint8).reshape(kept.shape) for scene in (before, after))
    assert (first[kept] == second[kept]).all() and second[ground_cells(after) & ~kept].any()
    assert not second[~ground_cells(after)].any()


def test_captions_say_where():
    for item in fresh_samples("single_object", 200, seed=9):
        if item.spec.where is not None:
            assert judge_strict(item.spec, recognise(render(item.scene)))
            moved = replace(item.spec, where=("left" if item.spec.where[0] != "left" else "right", item.spec.where[1]))
            assert not judge_strict(moved, recognise(render(item.scene)))


def test_noise_shows_nothing():
    picture = np.random.default_rng(0).integers(0, 256, (CANVAS, CANVAS, 3)).astype(np.uint8)
    assert not any(judge(item.spec, recognise(picture)) for item in fresh_samples("single_object", 20, seed=8))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="'shapes'"):
        sample(training_rng(0), "shapes")
    with pytest.raises(ValueError, match="float64"):
        recognise(np.zeros((8, 8, 3)))
