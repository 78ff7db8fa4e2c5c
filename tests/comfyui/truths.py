"""What a graph should have drawn, by its prompts: judged by the world that the demo was trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.verdicts import BRIGHT, edge_f1, judge_task
from training.world import (
    BACKGROUNDS,
    COLOURS,
    GRID,
    MORE_COLOURS,
    PEOPLE,
    RELATIONS,
    SHAPES,
    SIZES,
    Claim,
    Panel,
    Scene,
    SceneObject,
    Spec,
    TaskSample,
    canny,
    judge_strict,
    recognise,
    scene_of,
)

PACK = "LuminaMGPT2_"
COUNTS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4}
SHAPE = "|".join((*PEOPLE, *SHAPES))
COLOUR, GROUND = "|".join((*COLOURS, *MORE_COLOURS)), "|".join(BACKGROUNDS)
CLAIM = re.compile(rf"(?:({'|'.join(COUNTS)}) )?(?:({'|'.join(SIZES)}) )?(?:({COLOUR}) )?({SHAPE})(?:e?s)?")
BACKGROUND = re.compile(rf"(.*?)(?: on an? ({GROUND}) background)?")
STEPS = {"left": (-2 * GRID, 0), "right": (2 * GRID, 0), "up": (0, -2 * GRID), "down": (0, 2 * GRID)}
# The input of each node that leads to the sampler, and the parts of a picture that are its outputs.
TOWARDS_SAMPLER = {
    "VAEDecode": "samples",
    f"{PACK}MoVQGANDecode": "samples",
    f"{PACK}SplitPanels": "image",
    f"{PACK}BestOfN": "images",
}
# Thresholds of edges that are no noise of a decoded picture, and the least F1 of equal edges.
LOW, HIGH, SAME_EDGES = 0.1, 0.3, 0.9
# The output of Inpaint Picture that is a view of the canvas, and its grey as Save Image writes it.
VIEW, TO_BE_DRAWN = 1, 127
UPPER, LOWER, WHOLE = PARTS = ("upper", "lower", "whole")
Pictures = Sequence[np.ndarray]


def drawn_by(prompt: Mapping[str, dict], node: str) -> tuple[str, str] | None:
    """The sampler that drew what an output node shows, and the part of its picture; None for other pictures."""
    part, (source, slot) = WHOLE, prompt[node]["inputs"]["images"]
    while (kind := prompt[source]["class_type"]) != f"{PACK}SJDSampler":
        if kind not in TOWARDS_SAMPLER or (kind == f"{PACK}BestOfN" and slot != 0):
            return None
        if kind == f"{PACK}SplitPanels":
            part = PARTS[slot]
        source, slot = prompt[source]["inputs"][TOWARDS_SAMPLER[kind]]
    return (source, part) if slot == 0 else None


def faults(prompt: Mapping[str, dict], shown: Mapping[str, Pictures]) -> tuple[int, list[str]]:
    """How many pictures were judged, and for each that is wrong, what was asked for.

    Where a word is asked for that the demo knows by a LoRA alone, a picture without the LoRA must not show it.

    `prompt` is in the API format, `shown` are the pictures of its output nodes, uint8 [H,W,3].
    """
    drawn: dict[str, dict[str, Pictures]] = {}
    for node, pictures in shown.items():
        if by := drawn_by(prompt, node):
            drawn.setdefault(by[0], {})[by[1]] = pictures
    count, wrong = 0, []
    for sampler, parts in drawn.items():
        asked = prompt[prompt[sampler]["inputs"]["prompt"][0]]["inputs"]
        for whole in _whole({UPPER: _given(prompt, shown, sampler), **parts}):
            count += 1
            right = is_true(asked, whole) and not shows(asked.get("negative", ""), whole)
            if right != _knows(prompt, sampler, asked["prompt"]):
                wrong.append(f"{sampler}: {asked['task']}, {asked['prompt']!r}, not {asked.get('negative')!r}")
            if not _keeps(prompt, shown, sampler, whole):
                wrong.append(f"{sampler}: the picture's own pixels")
    return count, wrong


def shows(caption: str, picture: np.ndarray) -> bool:
    """Whether a picture, uint8 [H,W,3], has an object that a caption names; nothing is named by an empty one."""
    claims, found = spec_of(caption).claims if caption.strip() else (), recognise(picture).objects
    return any(one.shape == claim.shape and one.colour == claim.colour for claim in claims for one in found)


def _knows(prompt: Mapping[str, dict], sampler: str, text: str) -> bool:
    """Whether the demo knows all words of a prompt, by a LoRA if the sampler has one."""
    model = prompt[prompt[sampler]["inputs"]["model"][0]]
    return model["class_type"] == f"{PACK}LoadLoRA" or not any(word in text for word in MORE_COLOURS)


def _keeps(prompt: Mapping[str, dict], shown: Mapping[str, Pictures], sampler: str, whole: np.ndarray) -> bool:
    """Whether a picture has its own pixels outside of a mask: those of the canvas node's view, if not grey.

    They are the given picture's, where that is shown in the same size; Save Image truncates, the canvas rounds.
    """
    canvas = prompt[sampler]["inputs"].get("canvas", [sampler])[0]
    if prompt[canvas]["class_type"] != f"{PACK}InpaintPicture":
        return True
    views, given = (
        [shown[node][0] for node in shown if prompt[node]["inputs"]["images"] == link]
        for link in ([canvas, VIEW], prompt[canvas]["inputs"]["image"])
    )
    if not views:
        return False
    (view,) = views
    own = (view != TO_BE_DRAWN).any(-1)
    same = [np.abs(one[own].astype(int) - view[own]).max() <= 1 for one in given if one.shape == view.shape]
    return 0 < own.mean() < 1 and np.array_equal(whole[own], view[own]) and all(same)


def _given(prompt: Mapping[str, dict], shown: Mapping[str, Pictures], sampler: str) -> Pictures:
    """The pictures in the upper panel of a sampler's canvas, where an output node shows them."""
    canvas = prompt[prompt[sampler]["inputs"].get("canvas", [sampler])[0]]
    link = canvas["inputs"].get("image")
    return next((shown[node] for node in shown if link and prompt[node]["inputs"]["images"] == link), ())


def _whole(parts: dict[str, Pictures]) -> Pictures:
    """The whole pictures of a sampler, as far as output nodes show all their parts."""
    panels = zip(parts[UPPER], parts.get(LOWER, ()), strict=False)
    return parts.get(WHOLE) or [np.concatenate(pair) for pair in panels]


def is_true(asked: Mapping[str, str], whole: np.ndarray) -> bool:
    """Whether a picture, uint8 [H,W,3], is what the inputs of Lumina Prompt ask for."""
    task, text = asked["task"], asked["prompt"]
    if task == "text to image":
        return judge_strict(spec_of(text), recognise(whole, MORE_COLOURS))
    upper, lower = np.split(whole, 2)
    if task == "edit":
        return judge_task(edited(scene_of(recognise(upper)), text), upper, lower).right
    if task.startswith("subject-driven"):
        return judge_strict(_with_subject(spec_of(text), spec_of(asked["object"]), upper), recognise(lower))
    if task == "controllable":
        return judge_strict(spec_of(text), recognise(lower)) and _follows(asked["map"], upper, lower)
    return (not text or judge_strict(spec_of(text), recognise(upper))) and _is_map(asked["map"], upper, lower)


def spec_of(caption: str) -> Spec:
    """The claims of a caption of the demo's world. Raises ValueError for one that cannot be judged."""
    text, ground = BACKGROUND.fullmatch(caption.rstrip(".")).groups()
    relation = next((one for one in RELATIONS if f" {one} " in text), None)
    claims = tuple(map(_claim, re.split(f" {relation} " if relation else ", | and ", text)))
    category = "position" if relation else "counting" if len(claims) == 1 else "mixed"
    return Spec(category, claims, relation, ground)


def edited(scene: Scene, text: str) -> TaskSample:
    """A scene and what an edit makes of it. Raises ValueError for an edit that cannot be judged."""
    upper = Panel(scene)
    if match := re.fullmatch(rf"make the background ({GROUND})", text):
        return TaskSample("edit", text, upper, Panel(replace(scene, background=match[1])), edit="background")
    if match := re.fullmatch(r"add (.*)", text):
        claim = _claim(match[1])
        added = SceneObject(claim.shape, claim.colour, claim.size or "large", 0, 0)
        lower = Panel(replace(scene, objects=(*scene.objects, added)))
        return TaskSample("edit", text, upper, lower, edit="add", changed=added)
    if match := re.fullmatch(rf"(make|remove|move) the (?:({COLOUR}) )?({SHAPE})(?: (.*))?", text):
        thing = next(one for one in scene.objects if one.shape == match[3] and match[2] in (None, one.colour))
        changed = _changed(thing, match[1], match[4])
        objects = [changed if one is thing else one for one in scene.objects]
        lower = Panel(replace(scene, objects=tuple(one for one in objects if one is not None)))
        return TaskSample("edit", text, upper, lower, edit=match[1], changed=changed)
    raise ValueError(f"the edit {text!r} is not one that can be judged")


def _changed(thing: SceneObject, verb: str, how: str | None) -> SceneObject | None:
    if verb == "remove":
        return None
    if verb == "make":
        return replace(thing, colour=how)
    dx, dy = STEPS[how]
    return replace(thing, x=thing.x + dx, y=thing.y + dy)


def _claim(text: str) -> Claim:
    match = CLAIM.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a claim that can be judged")
    count, size, colour, shape = match.groups()
    return Claim(COUNTS[count or "a"], shape, colour, size)


def _with_subject(spec: Spec, subject: Spec, upper: np.ndarray) -> Spec:
    """The claims of a scene with those of its subject, in the size that it has in the upper panel."""
    (kept,) = subject.claims
    (found,) = recognise(upper).objects
    kept = replace(kept, size=found.size)
    return replace(spec, claims=tuple(kept if claim.shape == kept.shape else claim for claim in spec.claims))


def _follows(kind: str, given: np.ndarray, picture: np.ndarray) -> bool:
    """Whether a picture is one of a given map; edges are those that an edge node finds in pictures."""
    if kind != "canny":
        return _is_map(kind, picture, given)
    edges, given = canny(picture, LOW, HIGH).max(-1) >= BRIGHT, given.max(-1) >= BRIGHT
    return edge_f1(given, edges) >= SAME_EDGES


def _is_map(kind: str, picture: np.ndarray, shown: np.ndarray) -> bool:
    empty = Panel(Scene("black", ()))
    return judge_task(TaskSample("pair", "", empty, empty, map=kind), picture, shown).right
