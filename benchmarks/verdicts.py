"""Judges pictures of two-panel tasks: recognised objects and pixels of maps against the world's truth."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lumina_core.pictures.contact_sheet import contact_sheet
from training.world import PEOPLE, FoundObject, Recognised, Scene, SceneObject, TaskSample, recognise, render, scene_of

MOST_OFF = 4.0
BRIGHT = 96
CAPTION_WIDTH = 26


@dataclass(frozen=True)
class Captioned:
    """One picture, uint8 [H,W,3], with its caption and whether it is right."""

    caption: str
    picture: np.ndarray
    right: bool


def judged_sheet(judged: Sequence[Captioned]) -> Image.Image:
    """A contact sheet of all pictures with their captions; right ones have a green frame."""
    pictures = [Image.fromarray(one.picture) for one in judged]
    captions = [textwrap.fill(one.caption, CAPTION_WIDTH) for one in judged]
    return contact_sheet(pictures, captions, {index for index, one in enumerate(judged) if one.right})


@dataclass(frozen=True)
class Verdict:
    """`score` is the task's own measure, 0 to 1; `right`: all is right; `depth_rmse` is that of greys in [0, 1]."""

    score: float
    right: bool
    depth_rmse: float | None = None


def judge_task(sample: TaskSample, upper: np.ndarray, lower: np.ndarray) -> Verdict:
    """The verdict on a sample's two panels, uint8 [96, 96, 3].

    The score of control is the share of objects at their place. That of pair and predict is F1 of the map's bright
    pixels, one pixel off allowed, against the true map, which for pair is that of the scene recognised in the upper
    panel; 0 if an object there is none of the world's. subject scores 1 if the subject is there in its colour and size,
    edit if all is right.
    """
    if sample.task == "control":
        return _control(sample, recognise(lower))
    if sample.task == "subject":
        return _subject(sample, recognise(lower))
    if sample.task == "edit":
        return _edit(sample, recognise(lower))
    truth = sample.lower.scene if sample.task == "predict" else _pictured(sample, recognise(upper))
    return _map(render(truth, sample.map), lower, sample.map == "depth") if truth else Verdict(0.0, False)


def _pictured(sample: TaskSample, found: Recognised) -> Scene | None:
    """The scene that a pair's picture shows; None where an object is none of the world's, or a pose has no person."""
    kinds = {thing.kind for thing in found.objects}
    if None in kinds or not kinds or (sample.map == "pose" and not kinds & set(PEOPLE)):
        return None
    return scene_of(found)


def _control(sample: TaskSample, found: Recognised) -> Verdict:
    shown = [thing for thing in sample.lower.scene.objects if sample.map != "pose" or thing.kind in PEOPLE]
    placed = [any(_is(thing, other, colour=False) for other in found.objects) for thing in shown]
    complete = len(found.objects) == len(sample.lower.scene.objects)
    return Verdict(float(np.mean(placed)), all(placed) and complete)


def _subject(sample: TaskSample, found: Recognised) -> Verdict:
    subject = sample.changed
    assert subject is not None
    kept = any(
        (thing.kind, thing.colour, thing.size) == (subject.kind, subject.colour, subject.size)
        for thing in found.objects
    )
    company = [thing for thing in sample.lower.scene.objects if thing != subject]
    there = all(any((o.kind, o.colour) == (c.kind, c.colour) for o in found.objects) for c in company)
    complete = len(found.objects) == 1 + len(company) and found.background == sample.lower.scene.background
    return Verdict(float(kept), kept and there and complete)


def _edit(sample: TaskSample, found: Recognised) -> Verdict:
    """An added object may be anywhere; all others must be where they were."""
    scene, left = sample.lower.scene, list(found.objects)
    right = found.background == scene.background and len(left) == len(scene.objects)
    for thing in scene.objects:
        anywhere = sample.edit == "add" and thing == sample.changed
        match = next((other for other in left if _is(thing, other, colour=True, anywhere=anywhere)), None)
        if match is None:
            return Verdict(0.0, False)
        left.remove(match)
    return Verdict(float(right), right)


def _is(thing: SceneObject, found: FoundObject, colour: bool, anywhere: bool = False) -> bool:
    middle = thing.side / 2
    near = abs(found.x - thing.x - middle) <= MOST_OFF and abs(found.y - thing.y - middle) <= MOST_OFF
    alike = found.kind == thing.kind and (not colour or found.colour == thing.colour)
    return alike and (anywhere or (near and found.size == thing.size))


def _map(truth: np.ndarray, drawn: np.ndarray, depth: bool) -> Verdict:
    score = edge_f1(truth.max(-1) >= BRIGHT, drawn.max(-1) >= BRIGHT)
    error = (truth.astype(np.float32) - drawn).mean(-1) / 255
    rmse = float(np.sqrt((error**2).mean()))
    return Verdict(score, score >= 0.95 and (not depth or rmse <= 0.05), rmse if depth else None)


def edge_f1(truth: np.ndarray, drawn: np.ndarray) -> float:
    """F1 of two masks, bool [H, W]; a pixel matches if the other mask has one within a pixel. 1 for two empty masks."""
    if not truth.any() and not drawn.any():
        return 1.0
    precision, recall = _covered(drawn, truth), _covered(truth, drawn)
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def _covered(mask: np.ndarray, by: np.ndarray) -> float:
    padded = np.pad(by, 1)
    near = [padded[1 + dy : dy + 1 + len(by), 1 + dx : dx + 1 + by.shape[1]] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return float((mask & np.logical_or.reduce(near)).sum() / mask.sum()) if mask.any() else 0.0
