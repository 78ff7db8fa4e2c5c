"""Every example workflow and subgraph, drawn in ComfyUI's frontend and judged by what its prompts ask for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from browser import CLASSIC, VUE, Tab
from comfy_server import PACK
from PIL import Image
from truths import as_drawn, faults, is_true
from workflows import node

from training.world import Scene, SceneObject, render

EXAMPLES = sorted((PACK / "example_workflows").glob("*.json"))
(THINKING,) = [path for path in EXAMPLES if "TextGenerate" in path.read_text(encoding="utf-8")]
OURS = "LuminaMGPT2_"
ANSWER = "a penguin above a car in the snow"
LONG_TEXTS = {
    "LoadModel": "reading weights: 16,400 MB in 12 s (1,367 MB/s)",
    "SJDSampler": "9,216 tokens in 3 min 41 s (42/s)",
}
TELL = "([nodeId, text]) => app.api.dispatchCustomEvent('progress_text', { nodeId, text })"
BOXES = """() => app.graph.nodes.map((node) => {
  const [x, y, width, height] = node.boundingRect;
  return { name: `${node.id} ${node.title}`, x, y, right: x + width, bottom: y + height };
})"""


def own_widgets(graph: dict) -> dict:
    """The widget values of the nodes and subgraphs of this pack in a stored graph, by id."""
    subgraphs = {one["id"] for one in (graph.get("definitions") or {}).get("subgraphs", [])}
    return {
        one["id"]: one.get("widgets_values", [])
        for one in graph["nodes"]
        if one["type"].startswith(OURS) or one["type"] in subgraphs
    }


def check_no_overlap(tab: Tab) -> None:
    """Asserts that no nodes overlap while the loader and the sampler say what a large model takes."""
    for kind, text in LONG_TEXTS.items():
        for told in tab.nodes_of(f"{OURS}{kind}"):
            tab.page.evaluate(TELL, [told, text])
    tab.settle()
    boxes = tab.page.evaluate(BOXES)
    pairs = [(a, b) for k, a in enumerate(boxes) for b in boxes[:k]]
    assert not [
        (a["name"], b["name"])
        for a, b in pairs
        if a["x"] < b["right"] and b["x"] < a["right"] and a["y"] < b["bottom"] and b["y"] < a["bottom"]
    ]


# Example workflows

# With previews in both renderings.
DRAWN_TWICE = ("Text to image", "Canny to image")


@pytest.mark.parametrize("path", [path for path in EXAMPLES if path != THINKING], ids=lambda path: path.stem)
def test_an_example_draws_what_its_prompts_ask_for(classic, vue, path, tmp_path):
    """At its stored seeds. In the second rendering the server has the results of most."""
    shown = {}
    for tab in (classic, vue):
        stored = tab.open_file(path)
        assert own_widgets(tab.page.evaluate("app.graph.serialize()")) == own_widgets(stored)
        run = tab.run()
        shown[tab.rendering] = tab.pictures(run)
        tab.page.screenshot(path=tmp_path / f"{path.stem} {tab.rendering}.png")
        count, wrong = faults(run.prompt, shown[tab.rendering])
        assert count and not wrong
        check_no_overlap(tab)
        if path.stem in DRAWN_TWICE:
            tab.server.free()
    first, second = ({name: [one.tobytes() for one in each] for name, each in one.items()} for one in shown.values())
    assert first == second


def test_the_thinking_example_draws_an_answer(server, classic):
    """A core string node with an answer replaces the language model, which the tests do not have."""
    stored = classic.open_file(THINKING)
    assert own_widgets(classic.page.evaluate("app.graph.serialize()")) == own_widgets(stored)
    nodes = classic.page.evaluate("app.graphToPrompt()")["output"]
    ((asked, generate),) = [(name, one) for name, one in nodes.items() if one["class_type"] == "TextGenerate"]
    instruction, clip = generate["inputs"]["prompt"][0], generate["inputs"]["clip"][0]
    assert nodes[instruction]["class_type"] == f"{OURS}ThinkingInstruction"
    assert nodes.pop(clip)["class_type"] == "CLIPLoader"
    known = server.get("/object_info/TextGenerate")["TextGenerate"]["input"]
    assert set(generate["inputs"]) >= set(known["required"]) and generate["inputs"]["sampling_mode"] == "off"
    nodes[asked] = node("PrimitiveStringMultiline", value=f"<caption>{ANSWER}</caption>")
    nodes["instruction"] = node("PreviewAny", source=[instruction, 0])
    run = server.run(nodes)
    assert run.succeeded, run.error
    texts = [output["text"][0] for output in run.outputs.values() if "text" in output]
    assert any(text.endswith("The request: a fox left of a tree in the snow") for text in texts)
    assert ANSWER in texts and any(text.startswith("answer: ") for text in texts)
    ((save, _),) = [(name, output) for name, output in run.outputs.items() if "images" in output]
    (picture,) = server.pictures(run, save)
    assert is_true({"task": "text to image", "prompt": ANSWER}, as_drawn(nodes, save, np.asarray(picture)))


# Subgraphs

CAPTION = "a cat left of a tree"
SCENE = Scene("white", (SceneObject("cat", None, "large", 8, 8), SceneObject("tree", None, "large", 56, 8)))
ONE = Scene("black", (SceneObject("star", "orange", "small", 8, 8),))


@dataclass(frozen=True)
class Blueprint:
    """A subgraph: the picture to give it, uint8 [96,96,3], and values of its widgets."""

    given: np.ndarray | None = None
    widgets: dict[str, str] = field(default_factory=dict)


BLUEPRINTS = {
    "Text to Image": Blueprint(widgets={"prompt": CAPTION}),
    "Image Pair": Blueprint(widgets={"prompt": "a rabbit left of a sun"}),
    "Controllable": Blueprint(render(SCENE, "depth"), {"prompt": "a cat left of a tree in the snow"}),
    "Subject-driven": Blueprint(
        render(ONE), {"prompt": "a star and a mushroom on the beach", "object": "an orange star"}
    ),
    "Edit Turn": Blueprint(render(SCENE), {"prompt": "replace the cat with a dog"}),
    "Predict": Blueprint(render(SCENE)),
    "Continue Picture": Blueprint(render(SCENE), {"prompt": CAPTION}),
}
CASES = [*((CLASSIC, name) for name in BLUEPRINTS), (VUE, "Edit Turn")]


def test_every_subgraph_is_offered(server):
    stems = {path.stem for path in (PACK / "subgraphs").glob("*.json")}
    assert stems == {f"Lumina-mGPT 2.0 {name}" for name in BLUEPRINTS}
    assert stems <= {one["name"] for one in server.get("/global_subgraphs").values()}


@pytest.fixture
def given(server) -> Path:
    """A place for a picture in the server's input folder."""
    path = server.base / "input" / "given.png"
    yield path
    path.unlink(missing_ok=True)


@pytest.mark.parametrize(("tab", "name"), CASES, indirect=["tab"])
def test_a_subgraph_from_the_node_search_draws(tab, name, given):
    """With its own defaults. The seed and cfg of its sampler are widgets of it."""
    blueprint = BLUEPRINTS[name]
    turn = tab.add(f"Lumina-mGPT 2.0 {name}")
    assert set(tab.widgets(turn)) >= {"prompt", "width", "height", "cfg", "seed", *blueprint.widgets}
    inputs, outputs = tab.slots(turn)
    sources = {"loader": (f"{OURS}LoadModel", 0, -400)}
    links = {"model": ("loader", "model"), "vae": ("loader", "vae")}
    if blueprint.given is not None:
        Image.fromarray(blueprint.given).save(given)
        sources["given"], links["image"] = ("LoadImage", 0, -800), ("given", "IMAGE")
    shows = {output: ("PreviewImage", 800, 400 * place) for place, output in enumerate(outputs)}
    ids = tab.make(sources | shows, [])
    if "given" in ids:
        tab.set_widget(ids["given"], "image", given.name)
    assert set(links) == {"model", "vae", "image"} & set(inputs)
    for slot, (source, output) in links.items():
        tab.connect(ids[source], output, turn, slot)
    for output in outputs:
        tab.connect(turn, output, ids[output], "images")
    for widget, value in blueprint.widgets.items():
        tab.set_widget(turn, widget, value)
    run = tab.run()
    assert faults(run.prompt, tab.pictures(run)) == (1, [])
