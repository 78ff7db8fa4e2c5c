"""The cards of the example workflows: what each draws when it is run in ComfyUI, on a dark page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from lumina_core.errors import InputError

from .comfyui import PACK
from .composing import (
    card_of_best,
    card_of_one,
    card_of_pair,
    card_of_steps,
    card_of_thought,
    card_of_turns,
    fitted,
)
from .graphs import LUMINA
from .judging import request_of, wrong_in

if TYPE_CHECKING:
    from browser import Tab
    from comfy_server import Run

logger = logging.getLogger(__name__)

EXAMPLES = PACK / "example_workflows"
MOST_CARD_BYTES = 60_000
ADDED = "added"  # the id of a node that is added to a workflow
RESULT, GIVEN, MASKED = "Result", "The picture", "Grey is drawn"


@dataclass(frozen=True)
class Output:
    """An output of the only node of a type that has no node to show it."""

    kind: str
    slot: int


@dataclass(frozen=True)
class Card:
    """The pictures of a card in order, each by the title of the node that shows it, or an output; and their layout."""

    layout: Callable[[Sequence[Image.Image]], Image.Image]
    shown: tuple[str | Output, ...] = (RESULT,)


CARDS = {
    "Text to image": Card(card_of_one),
    "Best of 8": Card(card_of_best, (RESULT, Output("VAEDecode", 0))),
    "Image and depth map": Card(card_of_pair, ("Result: the picture", "Result: its depth map")),
    "Depth to image": Card(card_of_steps, ("Depth map", RESULT)),
    "Canny to image": Card(card_of_steps, ("Edges", RESULT)),
    "Image to depth map": Card(card_of_steps, (GIVEN, RESULT)),
    "Subject in a new image": Card(card_of_steps, ("The subject", RESULT)),
    "Edit over three turns": Card(card_of_turns, (GIVEN, "After turn 1", "After turn 2", RESULT)),
    "Continue a picture": Card(card_of_steps, (Output(f"{LUMINA}ContinuePicture", 1), RESULT)),
    "Inpaint a picture": Card(card_of_steps, (MASKED, RESULT)),
    "Outpaint a picture": Card(card_of_steps, (MASKED, RESULT)),
    "Negative prompt": Card(
        lambda four: card_of_steps([four[0], four[2], four[1], four[3]]),
        ("Result without", "Result with a negative prompt"),
    ),
    "Wear a LoRA": Card(card_of_steps, ("Without it", "Result with the LoRA")),
    "Think before drawing": Card(card_of_thought),
}


def make_card(tab: Tab, name: str) -> bytes:
    """The card of an example as a JPEG file."""
    tab.reset()
    stored, nodes = tab.open_file(EXAMPLES / f"{name}.json"), tab.page.evaluate("app.graphToPrompt()")["output"]
    without_language_model(nodes)
    places = [_place(stored, nodes, one) for one in CARDS[name].shown]
    run = tab.server.run(nodes)
    if not run.succeeded:
        raise InputError(f"the example {name!r} did not run: {run.error['exception_message'].strip()}")
    pictures = [picture for place in places for picture in tab.server.pictures(run, place)]
    log_faults(tab, name, nodes, run)
    return fitted({name: CARDS[name].layout(pictures)}, "JPEG", MOST_CARD_BYTES, MOST_CARD_BYTES)[name]


def without_language_model(nodes: dict) -> None:
    """Replaces the language model of a workflow in the API format: the request itself becomes the improved prompt."""
    for name, one in list(nodes.items()):
        if one["class_type"] == "TextGenerate":
            nodes.pop(one["inputs"]["clip"][0])
            answer = f"<caption>{request_of(nodes, one['inputs']['prompt'])}</caption>"
            nodes[name] = {"class_type": "PrimitiveStringMultiline", "inputs": {"value": answer}}


def _place(stored: dict, nodes: dict, shown: str | Output) -> str:
    """The id of the node that shows a picture of a card; one is added for an output that none shows."""
    if isinstance(shown, Output):
        (source,) = [name for name, one in nodes.items() if one["class_type"] == shown.kind]
        nodes[ADDED] = {"class_type": "PreviewImage", "inputs": {"images": [source, shown.slot]}}
        return ADDED
    found = [str(node["id"]) for node in stored["nodes"] if node.get("title") == shown]
    if len(found) != 1:
        raise InputError(f"the example has {len(found)} nodes with the title {shown!r}; expected one")
    return found[0]


def log_faults(tab: Tab, name: str, nodes: dict, run: Run) -> None:
    """Logs what is wrong, if anything, in the pictures that an example drew, by what it asks for."""
    shows = [node for node, output in run.outputs.items() if "images" in output and node != ADDED]
    wrong = wrong_in(nodes, {node: [np.asarray(one) for one in tab.server.pictures(run, node)] for node in shows})
    logger.log(
        *((logging.WARNING, f"{name}: wrong: {'; '.join(wrong)}") if wrong else (logging.INFO, f"{name}: right"))
    )


def check_examples(names: Sequence[str]) -> None:
    """Raises InputError where an example is missing or has no card here."""
    stems = {path.stem for path in EXAMPLES.glob("*.json")}
    unknown = [name for name in names if name not in stems] or sorted(stems - CARDS.keys())
    if unknown:
        raise InputError(f"no card is known for {', '.join(unknown)}; expected {', '.join(CARDS)}")
