"""Samples of the demo world: a scene, a caption that is true of it, and the claim that the caption states."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .captions import write_caption
from .palette import KINDS, TRAINING_WEIGHTS, sizes_of
from .scenes import (
    Claim,
    Scene,
    Spec,
    in_reading_order,
    pick,
    pick_distinct,
    pick_weighted,
    place,
    sample_spec,
    try_to_place,
)

TRAINING_STREAM, FRESH_STREAM, FRESH_TASK_STREAM = range(3)


@dataclass(frozen=True)
class Sample:
    """A scene with its caption and the claim that the caption states."""

    scene: Scene
    caption: str
    spec: Spec


def sample(rng: np.random.Generator, category: str | None = None) -> Sample:
    """A random sample of the category, or of the training mixture when it is None.

    Claim, then scene given the claim, then wording of the claim: so the scene is fair given the caption, but that it
    names things in reading order.
    """
    if category is None:
        category = pick_weighted(rng, TRAINING_WEIGHTS)
    spec = sample_spec(rng, category)
    scene = place(rng, spec)
    spec = in_reading_order(spec, scene)
    return Sample(scene, write_caption(rng, spec), spec)


def sample_scene(rng: np.random.Generator, category: str | None = None) -> tuple[Scene, str]:
    """A scene and a caption that is true of it; arguments as in `sample`."""
    drawn = sample(rng, category)
    return drawn.scene, drawn.caption


def crowded_scene(rng: np.random.Generator) -> Scene:
    """A scene of up to seven different kinds, as many as find room, in any size; no caption speaks of it."""
    for count in range(int(rng.integers(4, 8)), 1, -1):
        claims = tuple(Claim(1, kind, size=pick(rng, sizes_of(kind))) for kind in pick_distinct(rng, KINDS, count))
        scene = try_to_place(rng, Spec("mixed", claims))
        if scene is not None:
            return scene
    return place(rng, Spec("mixed", (Claim(1, pick(rng, KINDS)),)))


def training_rng(seed: int, worker: int = 0) -> np.random.Generator:
    """The generator of training data; its stream is never that of `fresh_samples`."""
    return np.random.default_rng([TRAINING_STREAM, seed, worker])


def fresh_samples(category: str, count: int, seed: int) -> list[Sample]:
    """`count` samples from a random stream that training does not use; the same for the same arguments."""
    rng = np.random.default_rng([FRESH_STREAM, seed, sorted(TRAINING_WEIGHTS).index(category)])
    return [sample(rng, category) for _ in range(count)]
