"""The README's picture: what the demo draws from text, with a map, in edits and after a map."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from lumina_core.pipeline import Lumina
from training.world import CANVAS

from ..arguments import DEMO_CFG
from .composing import Captioned, Section, sheet
from .judging import is_right

logger = logging.getLogger(__name__)

FROM_TEXT = (
    "a cat and a mushroom on the grass",
    "three rabbits in the snow",
    "a rocket above a moon at night",
    "a sailboat left of a sun in the sky",
)
WITH_MAP = "a large lion left of a small cactus on the sand"
BEFORE_EDITS = "a panda left of a cupcake on the grass"
EDITS = ("replace the cupcake with a watermelon", "add a moon", "change the background to night")
AFTER_MAP = "a lion left of a cactus in the snow"
# The tasks by their names in Lumina Prompt, which the judge knows.
TASKS = {"t2i": "text to image", "pair": "image pair", "edit": "edit", "control": "controllable"}


@dataclass(frozen=True)
class Painter:
    """Draws with so many seeds, from 0, and takes the first picture that is right."""

    lumina: Lumina
    seeds: int
    is_right: Callable[[str, str, np.ndarray], bool]

    def draw(self, task: str, prompt: str, given: Image.Image | None = None) -> Image.Image:
        """The whole canvas of a task. Logs its seed, and a warning where no picture is right."""
        panels = 1 if task == "t2i" else 2
        map_kind = "depth" if task in ("pair", "control") else None
        drawing = self.lumina.draw(
            *(prompt, CANVAS, panels * CANVAS),
            task=task,
            map=map_kind,
            condition=given,
            batch=self.seeds,
            cfg_scale=DEMO_CFG,
            seed=0,
        )
        right = [self.is_right(TASKS[task], prompt, np.asarray(one)) for one in drawing.images]
        seed = right.index(True) if any(right) else 0
        told = f"{TASKS[task]}, {prompt!r}: {sum(right)} of {len(right)} right, seed {seed}"
        logger.log(logging.INFO if any(right) else logging.WARNING, told)
        return drawing.images[seed]


def draw_sheet(seeds: int) -> Image.Image:
    """The picture, drawn on the CPU."""
    painter = Painter(Lumina.load("demo", device="cpu", dtype=torch.float32), seeds, is_right)
    pictures = [Captioned(painter.draw("t2i", prompt), prompt) for prompt in FROM_TEXT]
    above, below = panels(painter.draw("pair", WITH_MAP))
    pair = Captioned(above, WITH_MAP), Captioned(below, "… and its depth map, drawn together")
    followed = panels(painter.draw("control", AFTER_MAP, below))[1]
    control = Captioned(below, "given: a depth map"), Captioned(followed, f"drawn: {AFTER_MAP}")
    return sheet(
        [
            [Section("Text to image", tuple(pictures)), Section("Image pair", pair)],
            [
                Section("Edit, turn by turn", edited(painter), arrows=True),
                Section("Depth map to picture", control, arrows=True),
            ],
        ]
    )


def edited(painter: Painter) -> tuple[Captioned, ...]:
    """A picture and what each edit makes of the one before."""
    shown = [Captioned(painter.draw("t2i", BEFORE_EDITS), BEFORE_EDITS)]
    for edit in EDITS:
        drawn = panels(painter.draw("edit", edit, shown[-1].picture))[1]
        shown.append(Captioned(drawn, f"“{edit}”"))
    return tuple(shown)


def panels(canvas: Image.Image) -> tuple[Image.Image, Image.Image]:
    """The upper and the lower half of a canvas."""
    width, height = canvas.size
    return canvas.crop((0, 0, width, height // 2)), canvas.crop((0, height // 2, width, height))
