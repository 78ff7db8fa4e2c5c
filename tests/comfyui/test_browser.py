"""The example workflows in ComfyUI's own frontend, in headless Chromium."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
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
    """A browser tab with the frontend ready, for a user who has seen it before."""
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


def open_workflow(page: Page, workflow: Path) -> None:
    """Opens a workflow as a user does; its widgets keep their values."""
    nodes = json.loads(workflow.read_text(encoding="utf-8"))["nodes"]
    page.set_input_files("#comfy-file-input", str(workflow))
    page.wait_for_function(f"window.app.graph.nodes.length === {len(nodes)}", timeout=30 * SECONDS)
    kept = {
        node["id"]: node["widgets_values"]
        for node in page.evaluate("window.app.graph.serialize()")["nodes"]
        if node["type"].startswith("LuminaMGPT2_")
    }
    assert kept == {node["id"]: node["widgets_values"] for node in nodes if node["type"].startswith("LuminaMGPT2_")}


@pytest.mark.parametrize("workflow", [path for path in WORKFLOWS if path.stem != THINKING], ids=lambda path: path.stem)
def test_example_workflow_runs_in_the_browser(server, page, workflow, tmp_path):
    open_workflow(page, workflow)
    finished = len(server.get("/history"))
    page.click("[data-testid=queue-button]")
    for _ in range(180):
        if len(server.get("/history")) > finished:
            break
        page.wait_for_timeout(1 * SECONDS)
    page.wait_for_function("Object.keys(window.app.nodeOutputs).length > 0", timeout=60 * SECONDS)
    page.wait_for_timeout(2 * SECONDS)
    page.screenshot(path=tmp_path / f"{workflow.stem}.png")
    last = list(server.get("/history").values())[-1]
    assert last["status"]["status_str"] == "success", last["status"]
    saved = [one for output in last["outputs"].values() for one in output.get("images", []) if one["type"] == "output"]
    assert saved


def test_thinking_workflow_runs_but_for_the_language_model(server, page, tmp_path):
    """Its file is the user's own; a core node with an answer takes the place of Load CLIP and Generate Text."""
    (workflow,) = [path for path in WORKFLOWS if path.stem == THINKING]
    open_workflow(page, workflow)
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
