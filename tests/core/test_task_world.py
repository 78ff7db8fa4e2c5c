"""The tasks of the demo world: conditions and answers belong together, and the verdicts tell right from wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import tasks as scores
from benchmarks.verdicts import edge_f1, judge_task
from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.checkpoint.find import load_tokenizer
from lumina_core.tokens.prompts import find_template
from lumina_core.tokens.vocabulary import Vocabulary
from training.codes import GIVEN_WEIGHT, make_task_batches, task_prompt
from training.transformer import demo_config
from training.world import (
    CANVAS,
    EDITS,
    MAPS,
    PEOPLE,
    TASK_NAMES,
    Scene,
    SceneObject,
    TaskSample,
    canny,
    fresh_tasks,
    recognise,
    render,
    sample_task,
    training_rng,
)
from training.world.cells import looks, masks
from training.world.scenes import apart

CIRCLE = SceneObject("circle", "red", "large", 16, 24)


def panels(asked: TaskSample) -> tuple[np.ndarray, np.ndarray]:
    return tuple(render(panel.scene, panel.map) for panel in (asked.upper, asked.lower))


@pytest.mark.parametrize(("task", "kind"), scores.KINDS)
def test_the_truth_is_right_and_another_samples_answer_is_wrong(task, kind):
    samples = fresh_tasks(task, kind, 20, seed=3)
    pairs = [panels(one) for one in samples]
    right = [judge_task(one, *pair) for one, pair in zip(samples, pairs, strict=True)]
    assert all(verdict.right and verdict.score == 1 for verdict in right)
    turned = [
        judge_task(one, upper, pairs[i - 1][1]) for i, (one, (upper, _)) in enumerate(zip(samples, pairs, strict=True))
    ]
    assert np.mean([verdict.right for verdict in turned]) <= 0.15


def test_doing_nothing_is_no_edit():
    for kind in EDITS:
        for one in fresh_tasks("edit", kind, 10, seed=1):
            upper, _ = panels(one)
            assert not judge_task(one, upper, upper).right


def test_an_edit_changes_the_named_thing_alone():
    rng = training_rng(0)
    for _ in range(300):
        one = sample_task(rng, "edit")
        before, after = one.upper.scene, one.lower.scene
        lost, come = set(before.objects) - set(after.objects), set(after.objects) - set(before.objects)
        counts = {"recolour": (1, 1), "move": (1, 1), "remove": (1, 0), "add": (0, 1), "background": (0, 0)}
        assert (len(lost), len(come)) == counts[one.edit]
        assert (before.background != after.background) == (one.edit == "background")
        boxes = [((thing.x, thing.y), thing.side) for thing in after.objects]
        assert all(apart(*a, *b) for i, a in enumerate(boxes) for b in boxes[:i])
        assert all(
            0 <= thing.x <= CANVAS - thing.side and 0 <= thing.y <= CANVAS - thing.side for thing in after.objects
        )


def test_a_subject_stays_itself_in_another_scene():
    rng = training_rng(1)
    for _ in range(100):
        one = sample_task(rng, "subject")
        (subject,), kept = one.upper.scene.objects, one.changed
        assert (subject.shape, subject.colour, subject.size) == (kept.shape, kept.colour, kept.size)
        assert one.upper.scene.background != one.lower.scene.background
        assert f"{subject.colour} {subject.shape}" in one.object and subject.shape in one.prompt


def test_maps_show_what_they_are_called():
    scene = Scene(
        "white", (CIRCLE, replace(CIRCLE, size="small", x=48), SceneObject(PEOPLE[0], "blue", "large", 40, 40))
    )
    depth, edges, soft, pose = (render(scene, map)[..., 1] for map in MAPS)
    assert depth[36, 28] > depth[32, 56] > depth[0, 0] == 0
    assert edges[36, 28] == 0 and set(np.unique(edges)) == {0, 255}
    assert len(np.unique(soft)) > 5
    assert pose[:, :40].max() == 0 and pose[40:, 40:].max() > 0


def test_people_are_recognised():
    for person in PEOPLE:
        (found,) = recognise(render(Scene("gray", (SceneObject(person, "pink", "large", 24, 16),)))).objects
        assert (found.shape, found.colour) == (person, "pink")


def test_canny_finds_the_outlines_within_a_pixel():
    scene = Scene("black", (CIRCLE, SceneObject("star", "yellow", "large", 40, 8)))
    found, outline = canny(render(scene))[..., 0] > 0, render(scene, "canny")[..., 0] > 0
    assert edge_f1(outline, found) >= 0.95
    assert edge_f1(np.roll(outline, 8, 1), found) < 0.5


def test_f1_allows_one_pixel():
    mask = np.zeros((16, 16), bool)
    mask[4, 2:12] = True
    assert edge_f1(mask, mask) == edge_f1(mask, np.roll(mask, 1, 0)) == 1
    assert edge_f1(mask, np.roll(mask, 3, 0)) == 0 == edge_f1(mask, mask & False)
    assert edge_f1(mask & False, mask & False) == 1


def test_every_look_of_a_map_has_a_code():
    assert len(set(looks())) == len(looks())
    assert {look.map for look in looks()} == {None, *MAPS}
    for map in (None, *MAPS):
        assert len({mask.tobytes() for mask in masks(map)}) == len(masks(map))


@pytest.mark.parametrize("task", TASK_NAMES)
def test_task_batches_weigh_what_is_given_less(task):
    tokenizer = load_tokenizer("demo")
    vocabulary = Vocabulary.of(tokenizer, TransformerConfig.from_dict(demo_config(1000, len(looks()))))
    told, plain = make_task_batches(training_rng(2), 4, 2, tokenizer, vocabulary, (task,))
    assert told.codes.shape == (4, 128) and plain.codes.shape == (2, 128)
    given = GIVEN_WEIGHT if find_template(task).needs_condition else 1
    assert (told.weights[:, :64] == np.float32(given)).all() and (told.weights[:, 64:] == 1).all()
    following = told.input_ids.gather(1, told.positions + 1) - vocabulary.image_token_offset
    assert (following == told.codes).all() and (plain.codes == told.codes[:2]).all()


def test_a_tasks_prompt_is_the_published_one():
    (one,) = fresh_tasks("control", "depth", 1, seed=0)
    text = task_prompt(one)
    assert text.startswith("Generate a dual-panel image of 64x128 where the <upper half> displays a <depth map>")
    assert text.endswith(one.prompt)
