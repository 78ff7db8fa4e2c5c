"""Samples of the tasks on two panels: the prompt, the given picture and the right answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .captions import noun, write_caption
from .cells import scene_codes
from .palette import BACKGROUNDS, CANVAS, COLOURS, GRID, MAPS, PEOPLE, SHAPES, SIZES
from .sampling import FRESH_TASK_STREAM, sample_scene
from .scenes import PERSON_SIZE, Claim, Scene, SceneObject, Spec, apart, pick, pick_distinct, place, scattered

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
    """The code of every cell of a panel, int64 [8, 8]."""
    return scene_codes(panel.scene, panel.map)


@dataclass(frozen=True)
class TaskSample:
    """A task with its inputs and the two panels of the right answer.

    `edit` is the kind of edit, `changed` the object of the lower scene that an edit or a subject is about, where there
    is one.
    """

    task: str
    prompt: str
    upper: Panel
    lower: Panel
    map: str | None = None
    object: str | None = None
    edit: str | None = None
    changed: SceneObject | None = None


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
    scene, caption = _person(rng) if map == "pose" else sample_scene(rng)
    if task == "predict" and rng.random() < NO_CAPTION:
        caption = ""
    picture, shown = Panel(scene), Panel(scene, map)
    upper, lower = (shown, picture) if task == "control" else (picture, shown)
    return TaskSample(task, caption, upper, lower, map=map)


def _person(rng: np.random.Generator) -> tuple[Scene, str]:
    """A person, sometimes with another shape, and a caption."""
    claims = [Claim(1, pick(rng, PEOPLE), pick(rng, tuple(COLOURS)), PERSON_SIZE)]
    if rng.random() < COMPANY:
        claims.append(Claim(1, pick(rng, SHAPES), pick(rng, tuple(COLOURS))))
    background = pick(rng, tuple(BACKGROUNDS))
    scene = place(rng, Spec("mixed", tuple(claims), background=background))
    stated = tuple(replace(claim, size=None) for claim in claims)
    return scene, write_caption(rng, Spec("mixed", stated, background=background if rng.random() < 0.5 else None))


def _subject(rng: np.random.Generator) -> TaskSample:
    shapes, colours = pick_distinct(rng, SHAPES, 2), pick_distinct(rng, tuple(COLOURS), 2)
    subject, other = (Claim(1, *look) for look in zip(shapes, colours, strict=True))
    grounds = pick_distinct(rng, tuple(BACKGROUNDS), 2)
    size = pick(rng, tuple(SIZES))
    upper = place(rng, Spec("mixed", (replace(subject, size=size),), background=grounds[0]))
    company = (other,) if rng.random() < COMPANY else ()
    lower = place(rng, Spec("mixed", (replace(subject, size=size), *company), background=grounds[1]))
    prompt = write_caption(rng, Spec("mixed", (replace(subject, colour=None), *company), background=grounds[1]))
    return TaskSample(
        "subject",
        prompt.rstrip("."),
        Panel(upper),
        Panel(lower),
        object=noun(subject),
        changed=lower.objects[0],
    )


def _edit(rng: np.random.Generator, kind: str) -> TaskSample:
    while True:
        scene = _edit_scene(rng, least=2 if kind == "remove" else 1)
        edited = EDITS[kind](rng, scene)
        if edited is not None:
            text, after, changed = edited
            return TaskSample("edit", text, Panel(scene), Panel(after), edit=kind, changed=changed)


def _edit_scene(rng: np.random.Generator, least: int) -> Scene:
    count = int(rng.integers(least, MOST_IN_EDIT + 1))
    shapes = pick_distinct(rng, SHAPES, count)
    claims = tuple(Claim(1, shape, pick(rng, tuple(COLOURS))) for shape in shapes)
    return place(rng, Spec("mixed", claims))


Edited = tuple[str, Scene, SceneObject | None]


def _recolour(rng: np.random.Generator, scene: Scene) -> Edited:
    index, thing = _one_of(rng, scene)
    colour = pick(rng, [name for name in COLOURS if name != thing.colour])
    text = pick(rng, ("make the {} {}", "change the colour of the {} to {}", "paint the {} {}"))
    changed = replace(thing, colour=colour)
    return text.format(_called(rng, thing), colour), _with(scene, index, changed), changed


def _remove(rng: np.random.Generator, scene: Scene) -> Edited:
    index, thing = _one_of(rng, scene)
    text = pick(rng, ("remove the {}", "take the {} away", "delete the {}"))
    rest = scene.objects[:index] + scene.objects[index + 1 :]
    return text.format(_called(rng, thing)), replace(scene, objects=rest), None


def _move(rng: np.random.Generator, scene: Scene) -> Edited | None:
    index, thing = _one_of(rng, scene)
    direction = pick(rng, tuple(DIRECTIONS))
    dx, dy = DIRECTIONS[direction]
    changed = replace(thing, x=thing.x + dx, y=thing.y + dy)
    others = scene.objects[:index] + scene.objects[index + 1 :]
    if not _fits(changed, others):
        return None
    way = direction if direction in ("up", "down") else pick(rng, ("{}", "to the {}")).format(direction)
    return f"move the {_called(rng, thing)} {way}", _with(scene, index, changed), changed


def _reground(rng: np.random.Generator, scene: Scene) -> Edited:
    ground = pick(rng, [name for name in BACKGROUNDS if name != scene.background])
    text = pick(rng, ("make the background {}", "change the background to {}"))
    return text.format(ground), replace(scene, background=ground), None


def _add(rng: np.random.Generator, scene: Scene) -> Edited | None:
    shape = pick(rng, [name for name in SHAPES if all(name != thing.shape for thing in scene.objects)])
    claim = Claim(1, shape, pick(rng, tuple(COLOURS)))
    size = pick(rng, tuple(SIZES))
    corner = scattered(rng, (SIZES[size],), [((thing.x, thing.y), thing.side) for thing in scene.objects])
    if corner is None:
        return None
    changed = SceneObject(shape, claim.colour, size, *corner[0])
    text = pick(rng, ("add {}", "add {} to the picture", "put {} in")).format(noun(claim))
    return text, replace(scene, objects=(*scene.objects, changed)), changed


EDITS: dict[str, Callable[[np.random.Generator, Scene], Edited | None]] = {
    "recolour": _recolour,
    "remove": _remove,
    "move": _move,
    "background": _reground,
    "add": _add,
}


def _one_of(rng: np.random.Generator, scene: Scene) -> tuple[int, SceneObject]:
    index = int(rng.integers(len(scene.objects)))
    return index, scene.objects[index]


def _called(rng: np.random.Generator, thing: SceneObject) -> str:
    return thing.shape if rng.random() < 0.7 else f"{thing.colour} {thing.shape}"


def _with(scene: Scene, index: int, thing: SceneObject) -> Scene:
    return replace(scene, objects=(*scene.objects[:index], thing, *scene.objects[index + 1 :]))


def _fits(thing: SceneObject, others: tuple[SceneObject, ...]) -> bool:
    inside = 0 <= thing.x <= CANVAS - thing.side and 0 <= thing.y <= CANVAS - thing.side
    return inside and all(apart((thing.x, thing.y), thing.side, (o.x, o.y), o.side) for o in others)
