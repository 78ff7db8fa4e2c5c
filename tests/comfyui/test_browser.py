"""The example workflows in ComfyUI's frontend, in headless Chromium."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from workflows import node

if TYPE_CHECKING:
    from playwright.sync_api import Page

WORKFLOWS = sorted((Path(__file__).parents[2] / "example_workflows").glob("*.json"))
THINKING = "think_before_drawing"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SECONDS = 1000.0


@pytest.fixture
def page(server, chromium_path) -> Iterator[Page]:
    """A browser tab with the frontend loaded and its tutorial completed."""
    from playwright.sync_api import sync_playwright

    server.post("/settings", {"Comfy.TutorialCompleted": True})
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(chromium_path), args=FLAGS)
        tab = browser.new_page(viewport={"width": 1720, "height": 900})
        tab.goto(server.url)
        tab.wait_for_function("window.app?.graph && document.querySelector('#graph-canvas')", timeout=120 * SECONDS)
        tab.wait_for_selector("[data-testid=queue-button]", timeout=60 * SECONDS)
        yield tab
        browser.close()


def open_workflow(page: Page, path: Path) -> list[dict]:
    """Opens a stored workflow on the page; returns its nodes as stored."""
    nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    page.set_input_files("#comfy-file-input", str(path))
    page.wait_for_function(f"window.app.graph.nodes.length === {len(nodes)}", timeout=30 * SECONDS)
    return nodes


def check_widgets(page: Page, nodes: list[dict]) -> None:
    """Asserts that the nodes of this pack have their stored widget values."""
    kept = {
        node["id"]: node["widgets_values"]
        for node in page.evaluate("window.app.graph.serialize()")["nodes"]
        if node["type"].startswith("LuminaMGPT2_")
    }
    assert kept == {node["id"]: node["widgets_values"] for node in nodes if node["type"].startswith("LuminaMGPT2_")}


def press_run(server, page: Page) -> dict:
    """Queues the workflow on the page; returns the server's history of the finished run."""
    finished = len(server.get("/history"))
    page.click("[data-testid=queue-button]")
    for _ in range(180):
        if len(server.get("/history")) > finished:
            break
        page.wait_for_timeout(1 * SECONDS)
    page.wait_for_function("Object.keys(window.app.nodeOutputs).length > 0", timeout=60 * SECONDS)
    page.wait_for_timeout(2 * SECONDS)
    last = list(server.get("/history").values())[-1]
    assert last["status"]["status_str"] == "success", last["status"]
    return last


def saved(run: dict) -> list[dict]:
    return [one for output in run["outputs"].values() for one in output.get("images", []) if one["type"] == "output"]


@pytest.mark.parametrize("workflow", [path for path in WORKFLOWS if path.stem != THINKING], ids=lambda path: path.stem)
def test_example_workflow_runs_in_the_browser(server, page, workflow, tmp_path):
    nodes = open_workflow(page, workflow)
    check_widgets(page, nodes)
    run = press_run(server, page)
    page.screenshot(path=tmp_path / f"{workflow.stem}.png")
    assert saved(run)


def test_thinking_workflow_runs_without_a_language_model(server, page, tmp_path):
    """A core string node with an answer replaces Load CLIP and Generate Text."""
    (workflow,) = [path for path in WORKFLOWS if path.stem == THINKING]
    check_widgets(page, open_workflow(page, workflow))
    page.screenshot(path=tmp_path / f"{THINKING}.png")
    nodes = page.evaluate("window.app.graphToPrompt()")["output"]
    ((asked, generate),) = [(name, one) for name, one in nodes.items() if one["class_type"] == "TextGenerate"]
    instruction, clip = generate["inputs"]["prompt"][0], generate["inputs"]["clip"][0]
    assert nodes[instruction]["class_type"] == "LuminaMGPT2_ThinkingInstruction"
    assert nodes.pop(clip)["class_type"] == "CLIPLoader"
    known = server.get("/object_info/TextGenerate")["TextGenerate"]["input"]
    assert set(generate["inputs"]) >= set(known["required"]) and generate["inputs"]["sampling_mode"] == "off"
    nodes[asked] = node("PrimitiveStringMultiline", value="<caption>a green circle</caption>")
    nodes["instruction"] = node("PreviewAny", source=[instruction, 0])
    run = server.run(nodes)
    assert run.succeeded, run.error
    shown = [output["text"][0] for output in run.outputs.values() if "text" in output]
    assert any(text.endswith("The request: a red circle left of a blue square") for text in shown)
    assert any(text.endswith("following prompt:\na green circle") for text in shown)
    assert any(text.startswith("answer: ") for text in shown)
    assert any("images" in output for output in run.outputs.values())


TASK_PROMPT = "window.app.graph.nodes.find((node) => node.type === 'LuminaMGPT2_TaskPrompt')"
SHOWN = f"{TASK_PROMPT}.widgets.filter((widget) => !widget.hidden).map((widget) => widget.name)"
CHOOSE = f"(task) => {{ const [w] = {TASK_PROMPT}.widgets; w.value = task; w.callback(task); }}"
OLD_VALUES = ["text to image", "a red circle", 64, 96]


def test_task_prompt_shows_the_widgets_of_its_task(page, tmp_path):
    """Also in a workflow stored when the node had four widgets."""
    workflow = json.loads((WORKFLOWS[0].parent / "text_to_image.json").read_text(encoding="utf-8"))
    (stored,) = [node for node in workflow["nodes"] if node["type"] == "LuminaMGPT2_TaskPrompt"]
    stored["widgets_values"], stored["inputs"] = OLD_VALUES, []
    old = tmp_path / "old.json"
    old.write_text(json.dumps(workflow))
    open_workflow(page, old)
    always = ["task", "prompt", "width", "height", "template"]
    assert page.evaluate(SHOWN) == always
    assert page.evaluate(f"{TASK_PROMPT}.widgets.map((widget) => widget.value)") == [*OLD_VALUES, "depth", "", ""]
    subjects = [("subject-driven", {"object"}), ("subject-driven (released program)", {"object"})]
    for task, extra in [("image pair", {"map"}), *subjects, ("edit", set()), ("predict", {"map"})]:
        page.evaluate(CHOOSE, task)
        assert set(page.evaluate(SHOWN)) == {*always, *extra}


def test_task_prompt_hides_the_size_while_a_canvas_is_connected(page):
    open_workflow(page, WORKFLOWS[0].parent / "continue_picture.json")
    second = TASK_PROMPT.replace("find(", "findLast(")
    shown = SHOWN.replace(TASK_PROMPT, second)
    assert page.evaluate(shown) == ["task", "prompt", "template"]
    page.evaluate(f"{second}.disconnectInput({second}.inputs.findIndex((input) => input.name === 'canvas'))")
    assert page.evaluate(shown) == ["task", "prompt", "width", "height", "template"]


CONNECT_TURN = """() => {
  const graph = window.app.graph;
  const turn = graph.nodes.find((node) => node.isSubgraphNode?.());
  const save = window.LiteGraph.createNode("SaveImage");
  graph.add(save);
  const sources = { model: "LuminaMGPT2_LoadModel", vae: "LuminaMGPT2_LoadMoVQGAN", image: "VAEDecode" };
  for (const [name, type] of Object.entries(sources)) {
    const source = graph.nodes.find((node) => node.type === type);
    source.connect(0, turn, turn.inputs.findIndex((input) => input.name === name));
  }
  turn.connect(1, save, 0);
  for (const [name, value] of Object.entries({ prompt: "make the square green", width: 64, height: 128 })) {
    const widget = turn.widgets.find((widget) => widget.name === name);
    widget.value = value;
    widget.callback?.(value);
  }
  return turn.widgets.map((widget) => widget.name);
}"""


def find_subgraph(page: Page, name: str, patience: int) -> bool:
    """Adds a subgraph from the search of the page, waiting `patience` seconds a step; returns whether it is there."""
    page.keyboard.press("Escape")
    page.wait_for_timeout(patience * SECONDS)
    page.mouse.dblclick(900, 820)
    page.wait_for_timeout(patience * SECONDS)
    page.keyboard.type(name, delay=50)
    page.wait_for_timeout(2 * patience * SECONDS)
    page.keyboard.press("Enter")
    page.wait_for_timeout(patience * SECONDS)
    page.mouse.click(900, 820)
    page.wait_for_timeout(1 * SECONDS)
    return page.evaluate("window.app.graph.nodes.some((node) => node.isSubgraphNode?.())")


def test_edit_turn_from_the_node_search_is_a_turn_of_editing(server, page):
    open_workflow(page, WORKFLOWS[0].parent / "text_to_image.json")
    assert any(find_subgraph(page, "Lumina-mGPT 2.0 Edit Turn", patience) for patience in range(1, 5))
    names = page.evaluate(CONNECT_TURN)
    assert {"prompt", "width", "height"} <= set(names)
    assert any(name.endswith("seed") for name in names)  # older frontends prefix the id of the inner node
    pictures = saved(press_run(server, page))
    sizes = {
        Image.open(io.BytesIO(server.get_bytes(f"/view?filename={one['filename']}&type=output"))).size
        for one in pictures
    }
    assert sizes == {(64, 64), (64, 128)}
