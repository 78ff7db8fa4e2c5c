"""The tasks of the demo world: conditions and answers belong together, and the verdicts tell right from wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import tasks as scores
from benchmarks.verdicts import Verdict, edge_f1, judge_task
from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.checkpoint.find import load_tokenizer
from lumina_core.tokens.prompts import find_template
from lumina_core.tokens.vocabulary import Vocabulary
from training.codes import GIVEN_WEIGHT, UNKNOWN, make_task_batches, task_prompt
from training.transformer import demo_config
from training.world import (
    EDITS,
    MAPS,
    PEOPLE,
    TASK_NAMES,
    Scene,
    SceneObject,
    TaskSample,
    canny,
    fresh_tasks,
    panel_codes,
    recognise,
    render,
    sample_task,
    training_rng,
)
from training.world.cells import looks
from training.world.scenes import STATED_VALUES, apart, inside

CIRCLE = SceneObject("circle", "red", "large", 8, 8)


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
        counts = {
            "recolour": (1, 1),
            "move": (1, 1),
            "remove": (1, 0),
            "add": (0, 1),
            "background": (0, 0),
            "replace": (1, 1),
        }
        assert (len(lost), len(come)) == counts[one.edit]
        assert (before.background != after.background) == (one.edit == "background")
        boxes = [((thing.x, thing.y), thing.side) for thing in after.objects]
        assert all(apart(*a, *b) for i, a in enumerate(boxes) for b in boxes[:i])
        assert all(inside(thing.x, thing.y, thing.side) for thing in after.objects)


def test_a_subject_stays_itself_in_another_scene():
    rng = training_rng(1)
    for _ in range(100):
        one = sample_task(rng, "subject")
        (subject,), kept = one.upper.scene.objects, one.changed
        assert (subject.kind, subject.colour, subject.size) == (kept.kind, kept.colour, kept.size)
        assert one.upper.scene.background != one.lower.scene.background
        assert " ".join(filter(None, (subject.colour, subject.kind))) in one.object and subject.kind in one.prompt


def test_maps_show_what_they_are_called():
    scene = Scene("white", (CIRCLE, replace(CIRCLE, size="small", x=64), SceneObject(PEOPLE[0], None, "large", 48, 48)))
    depth, edges, soft, pose = (render(scene, map)[..., 1] for map in MAPS)
    assert depth[28, 28] > depth[20, 76] > depth[0, 0] == 0
    assert edges[28, 28] == 0 and set(np.unique(edges)) == {0, 255}
    assert len(np.unique(soft)) > 5
    assert pose[:, :48].max() == 0 and pose[48:, 48:].max() > 0


def test_edges_of_a_thing_show_its_inside():
    scene = Scene("gray", (SceneObject("cat", None, "large", 32, 32),))
    edges, outline = (render(scene, map)[..., 0] > 0 for map in ("canny", "hed"))
    assert edges[44:64, 44:60].sum() > 20 and not outline[48:60, 48:56].any()
    assert edge_f1(edges, canny(render(scene))[..., 0] > 0) >= 0.99


def test_people_are_recognised():
    for person in PEOPLE:
        (found,) = recognise(render(Scene("gray", (SceneObject(person, None, "large", 24, 16),)))).objects
        assert (found.kind, found.colour) == (person, None)


def test_canny_finds_the_outlines_within_a_pixel():
    scene = Scene("black", (CIRCLE, SceneObject("star", "yellow", "large", 56, 8)))
    found, outline = canny(render(scene))[..., 0] > 0, render(scene, "canny")[..., 0] > 0
    assert edge_f1(outline, found) >= 0.95
    assert edge_f1(np.roll(outline, 8, 1), found) < 0.5


def test_f1_allows_one_pixel():
    mask = np.zeros((16, 16), bool)
    mask[4, 2:12] = True
    assert edge_f1(mask, mask) == edge_f1(mask, np.roll(mask, 1, 0)) == 1
    assert edge_f1(mask, np.roll(mask, 3, 0)) == 0 == edge_f1(mask, mask & False)
    assert edge_f1(mask & False, mask & False) == 1


def test_a_pair_without_its_picture_is_wrong():
    """A map of nothing below a picture of nothing known has all its pixels right, and shows nothing that was asked."""
    nothing = np.zeros((96, 96, 3), np.uint8)
    smudge = render(Scene("black", ()))
    smudge[40:60, 30:62] = 255, 0, 255
    for map in MAPS:
        one = fresh_tasks("pair", map, 1, seed=5)[0]
        for upper in (nothing, smudge):
            assert judge_task(one, upper, nothing) == Verdict(0.0, False)
    pose = fresh_tasks("pair", "pose", 1, seed=5)[0]
    cat = render(Scene("black", (SceneObject("cat", None, "large", 16, 16),)))
    assert judge_task(pose, cat, nothing) == Verdict(0.0, False)


def test_every_look_of_a_map_has_a_code():
    assert {look.style for look in looks()} == {"ground", "begins", "object", *MAPS}
    for one in fresh_tasks("pair", None, 30, seed=4):
        for panel in (one.upper, one.lower):
            shown = [looks()[code] for code in panel_codes(panel).flatten()]
            styles = {panel.map} if panel.map else {"begins", "object"}
            assert {look.style for look in shown} - {"ground"} <= styles
            sizes = {(look.kind, look.size) for look in shown if look.kind}
            assert sizes <= {(thing.kind, thing.size) for thing in panel.scene.objects}


@pytest.mark.parametrize("task", TASK_NAMES)
def test_task_batches_weigh_what_is_given_less(task):
    tokenizer = load_tokenizer("demo")
    vocabulary = Vocabulary.of(tokenizer, TransformerConfig.from_dict(demo_config(1000, len(looks()))))
    told, plain = make_task_batches(training_rng(2), 4, 2, tokenizer, vocabulary, (task,))
    assert told.codes.shape == (4, 288) and plain.codes.shape == (2, 288)
    given = GIVEN_WEIGHT if find_template(task).needs_condition else 1
    assert (told.weights[:, :144] == np.float32(given)).all() and (told.weights[:, 144:] == 1).all()
    following = told.input_ids.gather(1, told.positions + 1) - vocabulary.image_token_offset
    assert (following == told.codes).all() and (plain.codes == told.codes[:2]).all()


def test_edit_batches_say_which_codes_change():
    tokenizer = load_tokenizer("demo")
    vocabulary = Vocabulary.of(tokenizer, TransformerConfig.from_dict(demo_config(1000, len(looks()))))
    for task, known in (("edit", True), ("subject", False)):
        told, _ = make_task_batches(training_rng(3), 6, 1, tokenizer, vocabulary, (task,))
        upper, lower = told.codes.unflatten(1, (24, 12)).chunk(2, 1)
        given, drawn = told.changed.unflatten(1, (24, 12)).chunk(2, 1)
        differs = (upper != lower).long() if known else torch.full_like(upper, UNKNOWN)
        assert (given[..., 0] == UNKNOWN).all() and torch.equal(given[..., 1:], differs[..., :-1])
        assert torch.equal(drawn, differs)
        assert told.stated.shape == (6, len(STATED_VALUES)) and (known or told.stated[:, 0].all())


@pytest.mark.parametrize("kind", EDITS)
def test_edits_state_what_they_take_and_what_they_put_there(kind):
    for one in fresh_tasks("edit", kind, 20, seed=6):
        taken, put = (*one.stated, None, None)[:2]
        assert (taken is None) == (kind in ("background", "add"))
        assert (put is None) == (kind in ("background", "remove", "move"))
        assert taken is None or taken.kind in one.prompt
        assert put is None or (put.kind, put.colour) == (one.changed.kind, one.changed.colour)


def test_a_tasks_prompt_is_the_published_one():
    (one,) = fresh_tasks("control", "depth", 1, seed=0)
    text = task_prompt(one)
    assert text.startswith("Generate a dual-panel image of 96x192 where the <upper half> displays a <depth map>")
    assert text.endswith(one.prompt)
