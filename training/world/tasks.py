"""Samples of the tasks on two panels: the prompt, the given picture and the right answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .captions import PLACE_FRAMES, noun, write_caption
from .cells import scene_codes
from .palette import BACKGROUNDS, COLOURS, GRID, MAPS, PEOPLE, PLACES, SHAPES, SIZES, is_coloured, sizes_of
from .sampling import FRESH_TASK_STREAM, Sample, sample
from .scenes import (
    Claim,
    Scene,
    SceneObject,
    Spec,
    apart,
    drawn_claims,
    in_reading_order,
    inside,
    pick,
    pick_distinct,
    pick_kinds,
    place,
    scattered,
    with_details,
)

NO_CAPTION = 0.3
MOVE = 2 * GRID
DIRECTIONS = {"left": (-MOVE, 0), "right": (MOVE, 0), "up": (0, -MOVE), "down": (0, MOVE)}
MOST_IN_EDIT = 3
COMPANY = 0.5


@dataclass(frozen=True)
class Panel:
    """A scene's picture, or a map of it."""

    scene: Scene
    map: str | None = None


def panel_codes(panel: Panel) -> np.ndarray:
    """The code of every cell of a panel, int64 [12, 12]."""
    return scene_codes(panel.scene, panel.map)


@dataclass(frozen=True)
class TaskSample:
    """A task with its inputs and the two panels of the right answer.

    `edit` is the kind of edit, `changed` the object of the lower scene that an edit or a subject is about, where there
    is one. `stated` is what the prompt says: of an edit, what it takes and what it puts there; else the objects in the
    order of drawing.
    """

    task: str
    prompt: str
    upper: Panel
    lower: Panel
    map: str | None = None
    object: str | None = None
    edit: str | None = None
    changed: SceneObject | None = None
    stated: tuple[Claim | None, ...] = ()


def sample_task(rng: np.random.Generator, task: str, kind: str | None = None) -> TaskSample:
    """A random sample of a task: pair, control, predict (`kind` is the map), subject or edit (`kind` is the edit's).

    None chooses the kind at random. Raises ValueError for any other task.
    """
    if task in ("pair", "control", "predict"):
        return _mapped(rng, task, kind or pick(rng, MAPS))
    if task == "subject":
        return _subject(rng)
    if task == "edit":
        return _edit(rng, kind or pick(rng, tuple(EDITS)))
    raise ValueError(f"task is {task!r}; expected one of {', '.join(TASK_NAMES)}")


TASK_NAMES = ("pair", "control", "predict", "subject", "edit")


def fresh_tasks(task: str, kind: str | None, count: int, seed: int) -> list[TaskSample]:
    """`count` samples from a random stream that training does not use; the same for the same arguments."""
    kinds = (None, *MAPS, *EDITS)
    rng = np.random.default_rng([FRESH_TASK_STREAM, seed, TASK_NAMES.index(task), kinds.index(kind)])
    return [sample_task(rng, task, kind) for _ in range(count)]


def _mapped(rng: np.random.Generator, task: str, map: str) -> TaskSample:
    drawn = _person(rng) if map == "pose" else sample(rng)
    caption, stated = drawn.caption, drawn_claims(drawn.spec)
    if task == "predict" and rng.random() < NO_CAPTION:
        caption, stated = "", ()
    picture, shown = Panel(drawn.scene), Panel(drawn.scene, map)
    upper, lower = (shown, picture) if task == "control" else (picture, shown)
    return TaskSample(task, caption, upper, lower, map=map, stated=stated)


def _person(rng: np.random.Generator) -> Sample:
    """A person, sometimes with another thing, and a caption."""
    claims = [Claim(1, pick(rng, PEOPLE))]
    if rng.random() < COMPANY:
        claims.append(_of_kind(rng, pick_kinds(rng, 1)[0]))
    spec = Spec("mixed", tuple(claims), background=pick(rng, tuple(BACKGROUNDS)))
    scene = place(rng, spec)
    spec = in_reading_order(spec, scene)
    spec = spec if rng.random() < 0.5 else replace(spec, background=None)
    return Sample(scene, write_caption(rng, spec), spec)


def _of_kind(rng: np.random.Generator, kind: str) -> Claim:
    return Claim(1, kind, pick(rng, tuple(COLOURS)) if is_coloured(kind) else None)


def _subject(rng: np.random.Generator) -> TaskSample:
    subject, other = (_of_kind(rng, kind) for kind in pick_kinds(rng, 2))
    grounds = pick_distinct(rng, tuple(BACKGROUNDS), 2)
    sized = replace(subject, size=pick(rng, sizes_of(subject.kind)))
    upper = place(rng, Spec("mixed", (sized,), background=grounds[0]))
    company = (other,) if rng.random() < COMPANY else ()
    lower = place(rng, Spec("mixed", (sized, *company), background=grounds[1]))
    spec = Spec("mixed", (replace(subject, colour=None), *company), background=grounds[1])
    spec = in_reading_order(spec, lower)
    return TaskSample(
        "subject",
        write_caption(rng, spec).rstrip("."),
        Panel(upper),
        Panel(lower),
        object=noun(subject),
        changed=lower.objects[0],
        stated=drawn_claims(spec),
    )


def _edit(rng: np.random.Generator, kind: str) -> TaskSample:
    while True:
        scene = _edit_scene(rng, kind)
        edited = EDITS[kind](rng, scene)
        if edited is not None:
            text, after, changed, stated = edited
            lower = Panel(with_details(rng, after, None if kind == "background" else scene))
            return TaskSample("edit", text, Panel(scene), lower, edit=kind, changed=changed, stated=stated)


def _edit_scene(rng: np.random.Generator, kind: str) -> Scene:
    count = int(rng.integers(2 if kind == "remove" else 1, MOST_IN_EDIT + 1))
    kinds = pick_kinds(rng, count)
    if kind == "recolour":
        kinds[0] = pick(rng, [shape for shape in SHAPES if shape not in kinds[1:]])
    return place(rng, Spec("mixed", tuple(_of_kind(rng, name) for name in kinds)))


Edited = tuple[str, Scene, SceneObject | None, tuple[Claim | None, ...]]


def _recolour(rng: np.random.Generator, scene: Scene) -> Edited:
    thing = scene.objects[0]
    colour = pick(rng, [name for name in COLOURS if name != thing.colour])
    text = pick(rng, ("make the {} {}", "change the colour of the {} to {}", "paint the {} {}"))
    changed, taken = replace(thing, colour=colour), _named(rng, thing)
    return text.format(_words(taken), colour), _with(scene, 0, changed), changed, (taken, replace(taken, colour=colour))


def _remove(rng: np.random.Generator, scene: Scene) -> Edited:
    index, thing = _one_of(rng, scene)
    text = pick(rng, ("remove the {}", "take the {} away", "delete the {}"))
    rest = scene.objects[:index] + scene.objects[index + 1 :]
    taken = _named(rng, thing)
    return text.format(_words(taken)), replace(scene, objects=rest), None, (taken,)


def _move(rng: np.random.Generator, scene: Scene) -> Edited | None:
    index, thing = _one_of(rng, scene)
    direction = pick(rng, tuple(DIRECTIONS))
    dx, dy = DIRECTIONS[direction]
    changed = replace(thing, x=thing.x + dx, y=thing.y + dy)
    if not _fits(changed, scene.objects[:index] + scene.objects[index + 1 :]):
        return None
    way = direction if direction in ("up", "down") else pick(rng, ("{}", "to the {}")).format(direction)
    taken = _named(rng, thing)
    return f"move the {_words(taken)} {way}", _with(scene, index, changed), changed, (taken,)


def _reground(rng: np.random.Generator, scene: Scene) -> Edited:
    ground = pick(rng, [name for name in BACKGROUNDS if name != scene.background])
    if ground in PLACES and rng.random() < 0.5:
        text = pick(rng, ("put it {}", "move it all {}")).format(PLACE_FRAMES[ground][0].removeprefix("{} "))
    else:
        text = pick(rng, ("make the background {}", "change the background to {}")).format(ground)
    return text, replace(scene, background=ground), None, ()


def _add(rng: np.random.Generator, scene: Scene) -> Edited | None:
    claim = _of_kind(rng, _other_kind(rng, scene))
    size = pick(rng, sizes_of(claim.kind))
    corner = scattered(rng, (SIZES[size],), [((thing.x, thing.y), thing.side) for thing in scene.objects])
    if corner is None:
        return None
    changed = SceneObject(claim.kind, claim.colour, size, *corner[0])
    text = pick(rng, ("add {}", "add {} to the picture", "put {} in")).format(noun(claim))
    return text, replace(scene, objects=(*scene.objects, changed)), changed, (None, claim)


def _replace(rng: np.random.Generator, scene: Scene) -> Edited:
    index, thing = _one_of(rng, scene)
    claim = _of_kind(rng, _other_kind(rng, scene, thing.size))
    text = pick(rng, ("replace the {} with {}", "turn the {} into {}", "change the {} to {}"))
    changed = replace(thing, kind=claim.kind, colour=claim.colour)
    taken = _named(rng, thing)
    return text.format(_words(taken), noun(claim)), _with(scene, index, changed), changed, (taken, claim)


EDITS: dict[str, Callable[[np.random.Generator, Scene], Edited | None]] = {
    "recolour": _recolour,
    "remove": _remove,
    "move": _move,
    "background": _reground,
    "add": _add,
    "replace": _replace,
}


def _other_kind(rng: np.random.Generator, scene: Scene, size: str | None = None) -> str:
    """A kind that is not in the scene, and comes in the size."""
    while True:
        kind = pick_kinds(rng, 1)[0]
        if all(kind != thing.kind for thing in scene.objects) and size in (None, *sizes_of(kind)):
            return kind


def _one_of(rng: np.random.Generator, scene: Scene) -> tuple[int, SceneObject]:
    index = int(rng.integers(len(scene.objects)))
    return index, scene.objects[index]


def _named(rng: np.random.Generator, thing: SceneObject) -> Claim:
    """What an edit says of an object that is there: its kind, and sometimes its colour."""
    return Claim(1, thing.kind, None if thing.colour is None or rng.random() < 0.7 else thing.colour)


def _words(claim: Claim) -> str:
    return " ".join(word for word in (claim.colour, claim.kind) if word)


def _with(scene: Scene, index: int, thing: SceneObject) -> Scene:
    return replace(scene, objects=(*scene.objects[:index], thing, *scene.objects[index + 1 :]))


def _fits(thing: SceneObject, others: tuple[SceneObject, ...]) -> bool:
    fits = inside(thing.x, thing.y, thing.side)
    return fits and all(apart((thing.x, thing.y), thing.side, (o.x, o.y), o.side) for o in others)
