"""What a graph should have drawn, by its prompts: judged by the world that the demo was trained on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.verdicts import BRIGHT, edge_f1, judge_task
from training.world import (
    BACKGROUNDS,
    COLOURS,
    GRID,
    KINDS,
    MORE_COLOURS,
    Claim,
    Panel,
    Scene,
    SceneObject,
    Spec,
    TaskSample,
    judge_strict,
    recognise,
    render,
    scene_of,
)
from training.world.captions import PLACE_FRAMES, RELATION_WORDS, SIZE_WORDS, WHERE_WORDS, plural

PACK = "LuminaMGPT2_"


def any_of(words: Iterable[str]) -> str:
    """A pattern of any of these words, the longer ones first."""
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True)))


COUNTS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4}
NAMES = {name: kind for kind in KINDS for name in (kind, plural(kind))}
SIZE_OF = {word: size for size, words in SIZE_WORDS.items() for word in words}
RELATION_OF = {word: relation for relation, words in RELATION_WORDS.items() for word in words}
WHERE_OF = {word: where for where, words in WHERE_WORDS.items() for word in words}
PLACE_OF = {
    frame.removeprefix("{} "): place for place, frames in PLACE_FRAMES.items() for frame in frames if frame[:2] == "{}"
}
KIND, NAME, SIZE = any_of(KINDS), any_of(NAMES), any_of(SIZE_OF)
COLOUR, GROUND, PLACE = any_of((*COLOURS, *MORE_COLOURS)), any_of(BACKGROUNDS), any_of(PLACE_OF)
CLAIM = re.compile(rf"(?:({any_of(COUNTS)}) )?(?:({SIZE}) )?(?:({COLOUR}) )?({NAME})")
CAPTION = re.compile(rf"(.*?)(?: ({any_of(WHERE_OF)}))?(?: on an? ({GROUND}) background| ({PLACE}))?")
RELATED = re.compile(rf" ({any_of(RELATION_OF)}) ")
BETWEEN_CLAIMS = re.compile(rf", | and | (?:{any_of(RELATION_OF)}) ")
THE = rf"the (?:({COLOUR}) )?({KIND})"
# Wordings of every kind of edit. An object is its colour, or None, and its kind.
EDITS = {
    "background": (
        rf"(?:make the background|change the background to) ({GROUND})",
        rf"(?:put it|move it all) ({PLACE})",
    ),
    "add": ("add (.*?)(?: to the picture)?", "put (.*) in"),
    "replace": (f"replace {THE} with (.*)", f"turn {THE} into (.*)", f"change {THE} to (.*)"),
    "recolour": (rf"(?:make|paint) {THE} ({COLOUR})", rf"change the colour of {THE} to ({COLOUR})"),
    "remove": (f"remove {THE}()", f"take {THE} away()", f"delete {THE}()"),
    "move": (f"move {THE} (?:to the )?(left|right|up|down)",),
}
STEPS = {"left": (-2 * GRID, 0), "right": (2 * GRID, 0), "up": (0, -2 * GRID), "down": (0, 2 * GRID)}
# The core node that enlarges pictures for display.
ENLARGE = "ImageScaleBy"
# The input of each node that leads to the sampler, and the parts of a picture that are its outputs.
TOWARDS_SAMPLER = {
    "VAEDecode": "samples",
    ENLARGE: "image",
    f"{PACK}MoVQGANDecode": "samples",
    f"{PACK}SplitPanels": "image",
    f"{PACK}BestOfN": "images",
}
SAME_EDGES = 0.9
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
    shown = {node: [as_drawn(prompt, node, one) for one in pictures] for node, pictures in shown.items()}
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


def as_drawn(prompt: Mapping[str, dict], node: str, picture: np.ndarray) -> np.ndarray:
    """A picture that an output node shows, in the size in which it was drawn."""
    scale, source = 1, prompt[node]["inputs"]["images"][0]
    while prompt[source]["class_type"] == ENLARGE:
        scale *= round(prompt[source]["inputs"]["scale_by"])
        source = prompt[source]["inputs"]["image"][0]
    return picture[scale // 2 :: scale, scale // 2 :: scale]


def _shown_by(prompt: Mapping[str, dict], node: str) -> list:
    """The link from the output whose pictures an output node shows, enlarged or not."""
    link = prompt[node]["inputs"]["images"]
    while prompt[link[0]]["class_type"] == ENLARGE:
        link = prompt[link[0]]["inputs"]["image"]
    return link


def shows(caption: str, picture: np.ndarray) -> bool:
    """Whether a picture, uint8 [H,W,3], has an object that a caption names, on the background it names, if any."""
    if not caption.strip():
        return False
    spec, found = spec_of(caption), recognise(picture)
    named = any(
        one.kind == claim.kind and claim.colour in (None, one.colour) for claim in spec.claims for one in found.objects
    )
    return named and spec.background in (None, found.background)


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
        [shown[node][0] for node in shown if _shown_by(prompt, node) == link]
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
    return next((shown[node] for node in shown if link and _shown_by(prompt, node) == link), ())


def _whole(parts: dict[str, Pictures]) -> Pictures:
    """The whole pictures of a sampler, as far as output nodes show all their parts."""
    panels = zip(parts[UPPER], parts.get(LOWER, ()), strict=False)
    return parts.get(WHOLE) or [np.concatenate(pair) for pair in panels]


def is_true(asked: Mapping[str, str], whole: np.ndarray) -> bool:
    """Whether a picture, uint8 [H,W,3], is what the inputs of Lumina Prompt ask for."""
    task, text = asked["task"], asked["prompt"]
    if task == "text to image":
        return judge_strict(spec_of(text), recognise(whole, tuple(MORE_COLOURS)))
    upper, lower = np.split(whole, 2)
    if task == "edit":
        sample = edited(scene_of(recognise(upper)), text)
        return sample is not None and judge_task(sample, upper, lower).right
    if task.startswith("subject-driven"):
        return judge_strict(_with_subject(spec_of(text), spec_of(asked["object"]), upper), recognise(lower))
    if task == "controllable":
        return judge_strict(spec_of(text), recognise(lower)) and _follows(asked["map"], upper, lower)
    return (not text or judge_strict(spec_of(text), recognise(upper))) and _is_map(asked["map"], upper, lower)


def spec_of(caption: str) -> Spec:
    """The claims of a caption of the demo's world. Raises ValueError for one that cannot be judged."""
    text, where, plain, place = CAPTION.fullmatch(caption.rstrip(".")).groups()
    relation = RELATED.search(text)
    claims = tuple(map(_claim, BETWEEN_CLAIMS.split(text)))
    category = "position" if relation else "counting" if len(claims) == 1 else "mixed"
    related = RELATION_OF[relation[1]] if relation else None
    return Spec(category, claims, related, plain or PLACE_OF.get(place), WHERE_OF.get(where))


def edited(scene: Scene, text: str) -> TaskSample | None:
    """A scene and what an edit makes of it; None where the scene lacks what is edited.

    Raises ValueError for an edit that cannot be judged.
    """
    kind, found = _read_edit(text)
    if kind == "background":
        after, changed = replace(scene, background=PLACE_OF.get(found[0], found[0])), None
    elif kind == "add":
        claim = _claim(found[0])
        changed = SceneObject(claim.kind, claim.colour, claim.size or "large", GRID, 0)
        after = replace(scene, objects=(*scene.objects, changed))
    else:
        colour, name, how = found
        thing = next((one for one in scene.objects if one.kind == name and colour in (None, one.colour)), None)
        if thing is None:
            return None
        changed = _changed(thing, kind, how)
        objects = [changed if one is thing else one for one in scene.objects]
        after = replace(scene, objects=tuple(one for one in objects if one is not None))
    return TaskSample("edit", text, Panel(scene), Panel(after), edit=kind, changed=changed)


def _read_edit(text: str) -> tuple[str, tuple[str, ...]]:
    """The kind of an edit and what its wording names."""
    for kind, wordings in EDITS.items():
        for wording in wordings:
            if match := re.fullmatch(wording, text):
                return kind, match.groups()
    raise ValueError(f"the edit {text!r} is not one that can be judged")


def _changed(thing: SceneObject, edit: str, how: str) -> SceneObject | None:
    if edit == "remove":
        return None
    if edit == "recolour":
        return replace(thing, colour=how)
    if edit == "replace":
        claim = _claim(how)
        return replace(thing, kind=claim.kind, colour=claim.colour)
    dx, dy = STEPS[how]
    return replace(thing, x=thing.x + dx, y=thing.y + dy)


def _claim(text: str) -> Claim:
    match = CLAIM.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a claim that can be judged")
    count, size, colour, name = match.groups()
    return Claim(COUNTS[count or "a"], NAMES[name], colour, SIZE_OF.get(size))


def _with_subject(spec: Spec, subject: Spec, upper: np.ndarray) -> Spec:
    """The claims of a scene with those of its subject, in the size that it has in the upper panel."""
    (kept,) = subject.claims
    size = next((one.size for one in recognise(upper).objects if one.kind == kept.kind), None)
    kept = replace(kept, size=size)
    return replace(spec, claims=tuple(kept if claim.kind == kept.kind else claim for claim in spec.claims))


def _follows(kind: str, given: np.ndarray, picture: np.ndarray) -> bool:
    """Whether a picture is one of a given map. The edges that an edge node finds may be a little different."""
    if kind != "canny":
        return _is_map(kind, picture, given)
    edges = render(scene_of(recognise(picture)), kind)
    return edge_f1(given.max(-1) >= BRIGHT, edges.max(-1) >= BRIGHT) >= SAME_EDGES


def _is_map(kind: str, picture: np.ndarray, shown: np.ndarray) -> bool:
    empty = Panel(Scene("black", ()))
    return judge_task(TaskSample("pair", "", empty, empty, map=kind), picture, shown).right
