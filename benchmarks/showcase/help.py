"""The pictures of the help pages: small graphs, run in ComfyUI's page and photographed there."""

from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from lumina_core.errors import InputError
from training.world import CANVAS

from .comfyui import LORA, PACK
from .composing import fitted
from .graphs import LANGUAGE_MODEL, STYLE_LORA, Graph, given_pictures, graphs
from .judging import wrong_in

if TYPE_CHECKING:
    from browser import Ended, Tab
    from comfy_server import ComfyServer

logger = logging.getLogger(__name__)

DOCS = PACK / "web" / "docs"
PICTURES = DOCS / "pictures"
# As tests/nodes/test_help.py allows, with room for changes of the texts.
MOST_BYTES, MOST_ALL_BYTES, ROOM = 36_000, 380_000, 6_000
MOST_WIDTH = 1000
GIVEN = "given"
MARGIN, LEFT, TOP = 18, 140, 140
WINDOW = {"width": 1720, "height": 1200}
SETTINGS = {
    "Comfy.NodeBadge.NodeSourceBadgeMode": "None",
    "Comfy.NodeBadge.NodeIdBadgeMode": "None",
    "Comfy.NodeBadge.NodeLifeCycleBadgeMode": "None",
    "Comfy.Graph.LinkMarkers": 0,  # none
}
SET = "([name, value]) => app.extensionManager.setting.set(name, value)"
SHAPE = """([id, x, y, width, height, title]) => {
  const node = app.graph.getNodeById(Number(id));
  if (title) node.title = title;
  node.pos = [x, y];
  node.setSize([width, height || node.computeSize()[1]]);
  app.canvas.setDirty(true, true);
}"""
VIEW = """([left, top]) => {
  const { canvas } = app;
  canvas.deselectAll();
  canvas.background_image = null;
  canvas.clear_background_color = "#1e1e1e";
  canvas.ds.scale = 1;
  const boxes = app.graph.nodes.map(({ boundingRect }) => boundingRect);
  const [x, y] = [0, 1].map((side) => Math.min(...boxes.map((box) => box[side])));
  [canvas.ds.offset[0], canvas.ds.offset[1]] = [left - x, top - y];
  canvas.setDirty(true, true);
  const [right, bottom] = [0, 1].map((side) => Math.max(...boxes.map((box) => box[side] + box[side + 2])));
  return [...app.canvasPosToClientPos([x, y]), right - x, bottom - y];
}"""


def make_pictures(tab: Tab, names: Sequence[str], seeds: int) -> dict[str, bytes]:
    """The help pictures of these names as WEBP files."""
    put_files(tab.server)
    tab.command("Comfy.RefreshNodeDefinitions")
    tab.page.set_viewport_size(WINDOW)
    for setting, value in SETTINGS.items():
        tab.page.evaluate(SET, [setting, value])
    shown = {}
    for name in names:
        tab.reset()
        graph = graphs()[name]
        ids = build(tab, graph)
        if graph.run:
            run_until_right(tab, name, ids, seeds)
        shape(tab, graph, ids)
        shown[name] = reduced(photograph(tab))
    return fitted(shown, "WEBP", MOST_BYTES, room_for(names))


def room_for(names: Sequence[str]) -> int:
    """The bytes that these pictures may take beside all other files of the help."""
    new = {PICTURES / f"{name}.webp" for name in names}
    others = sum(path.stat().st_size for path in DOCS.rglob("*") if path.is_file() and path not in new)
    return MOST_ALL_BYTES - ROOM - others


def put_files(server: ComfyServer) -> None:
    """Puts the pictures that the graphs load, and files of the models that they name, where ComfyUI finds them."""
    for name, picture in given_pictures().items():
        picture.save(server.base / "input" / name)
    models = server.base / "models"
    for name in (STYLE_LORA, LANGUAGE_MODEL):
        (models / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(LORA, models / STYLE_LORA)
    (models / LANGUAGE_MODEL).touch()


def run_until_right(tab: Tab, name: str, ids: dict[str, str], seeds: int) -> None:
    """Runs a graph, where it draws with so many seeds at most, from 0, until what it draws is right."""
    for seed in range(seeds):
        if "sampler" in ids:
            tab.set_widget(ids["sampler"], "seed", seed)
        run = tab.run()
        wrong = faults_of(tab, run) if "sampler" in ids else []
        if not wrong:
            logger.info("%s: right, seed %d", name, seed)
            return
    logger.warning("%s: wrong, seed %d: %s", name, seed, "; ".join(wrong))


def faults_of(tab: Tab, run: Ended) -> list[str]:
    """What is wrong in what a graph drew. The picture that it loads counts as shown, in the size of the canvas."""
    nodes, shown = dict(run.prompt), dict(tab.pictures(run))
    for name, one in run.prompt.items():
        if one["class_type"] == "LoadImage":
            picture = given_pictures()[one["inputs"]["image"]].convert("RGB")
            shown[GIVEN] = [np.asarray(picture.resize((CANVAS, CANVAS), Image.Resampling.NEAREST))]
            nodes[GIVEN] = {"class_type": "PreviewImage", "inputs": {"images": [name, 0]}}
    return wrong_in(nodes, shown)


def photograph(tab: Tab) -> Image.Image:
    """The picture of the graph in the page."""
    tab.settle()
    left, top, width, height = tab.page.evaluate(VIEW, [LEFT, TOP])
    tab.settle()
    clip = {"x": left - MARGIN, "y": top - MARGIN, "width": width + 2 * MARGIN, "height": height + 2 * MARGIN}
    if clip["x"] + clip["width"] > WINDOW["width"] or clip["y"] + clip["height"] > WINDOW["height"]:
        raise InputError(f"a graph of {width:.0f} x {height:.0f} px is larger than the window, {WINDOW}")
    return Image.open(io.BytesIO(tab.page.screenshot(clip=clip))).convert("RGB")


def build(tab: Tab, graph: Graph) -> dict[str, str]:
    """Makes the nodes and links of a graph, with the values of its widgets. Returns the ids by name."""
    places = {name: (one.kind, one.x, one.y) for name, one in graph.nodes.items()}
    ids = tab.make(places, [])
    for name, one in graph.nodes.items():
        for widget, value in one.values.items():
            tab.set_widget(ids[name], widget, value)
    for link in graph.links:
        source, target = link.split(" ")
        (start, output), (end, slot) = source.split("."), target.split(".")
        tab.connect(ids[start], output, ids[end], slot)
    shape(tab, graph, ids)
    return ids


def shape(tab: Tab, graph: Graph, ids: dict[str, str]) -> None:
    """Gives the nodes their places, sizes and titles."""
    for name, one in graph.nodes.items():
        tab.page.evaluate(SHAPE, [ids[name], one.x, one.y, one.width, one.height, one.title])


def reduced(picture: Image.Image) -> Image.Image:
    """A picture no wider than the help shows it."""
    if picture.width <= MOST_WIDTH:
        return picture
    return picture.resize((MOST_WIDTH, round(MOST_WIDTH * picture.height / picture.width)), Image.Resampling.LANCZOS)
