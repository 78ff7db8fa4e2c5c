"""The pack in ComfyUI's frontend, in headless Chromium: how it is found, named and shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from browser import TRIES, VUE, Tab, setting
from comfy_server import PACK

EXAMPLES, LOCALES = PACK / "example_workflows", PACK / "locales"
TEXT_TO_IMAGE, CONTINUE = (EXAMPLES / f"{name}.json" for name in ("Text to image", "Continue a picture"))
LOADER, PROMPT, SAMPLER = MAIN = tuple(f"LuminaMGPT2_{name}" for name in ("LoadModel", "TaskPrompt", "SJDSampler"))


def translations(language: str, file: str) -> dict:
    return json.loads((LOCALES / language / f"{file}.json").read_text(encoding="utf-8"))


# Search

DEFINITIONS = "document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s.get('nodeDef')"
FOUND = f"(words) => {DEFINITIONS}.nodeSearchService.searchNode(words, [], {{ limit: 64 }}).map(({{ name }}) => name)"
WORDS = {
    "autoregressive": "SJDSampler",
    "token": "SJDSampler",
    "vae": "LoadMoVQGAN",
    "unet": "LoadModel",
    "sampler": "SJDSampler",
    "inpaint": "InpaintPicture",
    "mask": "InpaintPicture",
    "局部重绘": "InpaintPicture",
    "lora": "LoadLoRA",
    "negative": "TaskPrompt",
    "outpaint": "ContinuePicture",
    "control": "TaskPrompt",
    "canny": "StitchPanels",
    "depth": "StitchPanels",
    "quantize": "LoadModel",
    "int4": "LoadModel",
    "llm": "LoadModel",
    "prompt": "TaskPrompt",
    "rerank": "BestOfN",
    "checkpoint": "LoadModel",
    "generate image": "SJDSampler",
    "text to image": "SJDSampler",
    "image edit": "TaskPrompt",
    "文生图": "SJDSampler",
}


def test_words_that_people_type_find_a_node(classic):
    found = {words: classic.page.evaluate(FOUND, words) for words in WORDS}
    assert not [words for words, node in WORDS.items() if f"LuminaMGPT2_{node}" not in found[words]]


@pytest.mark.parametrize("box", ["default", "v1 (legacy)"])
def test_lumina_finds_loader_prompt_and_sampler_first(tab, box):
    with setting(tab, "Comfy.NodeSearchBoxImpl", box):
        entries = tab.search("lumina")
        tab.page.keyboard.press("Escape")
    first = [entry.split("\n")[0].strip() for entry in entries[:3]]
    assert first == ["Lumina Loader", "Lumina Prompt", "Lumina Sampler"]
    assert all("\nLumina-mGPT 2.0" in entry for entry in entries[:3])


# Templates


def test_the_templates_dialog_shows_and_opens_the_examples(tab, tmp_path):
    stems = {path.stem for path in EXAMPLES.glob("*.json")}
    tab.command("Comfy.BrowseTemplates")
    category = translations("en", "main")["templateWorkflows"]["category"]["comfyui-lumina-mgpt2"]
    tab.page.get_by_text(category, exact=True).first.click()
    card = "[data-testid='template-workflow-{}']"
    tab.page.wait_for_selector(card.format(TEXT_TO_IMAGE.stem))
    shown = tab.page.evaluate(
        "[...document.querySelectorAll('[data-testid^=template-workflow-]')].map((e) => e.dataset.testid)"
    )
    assert {one.removeprefix("template-workflow-") for one in shown} >= stems
    tab.page.screenshot(path=tmp_path / "templates.png")
    tab.page.click(card.format(TEXT_TO_IMAGE.stem))
    stored = json.loads(TEXT_TO_IMAGE.read_text(encoding="utf-8"))
    tab.wait(f"app.graph.nodes.length === {len(stored['nodes'])}")


# Chinese

SHOWN_NAMES = """(id) => {
  const node = app.graph.getNodeById(Number(id));
  const optionsOf = ({ name, options: { values, getOptionLabel } }) =>
    [name, Object.fromEntries(values.map((value) => [value, getOptionLabel(value)]))];
  const slots = (list) => list.map((slot) => [slot.name, slot.label ?? slot.localized_name ?? slot.name]);
  return {
    title: node.title,
    inputs: Object.fromEntries([...slots(node.inputs), ...node.widgets.map(({ name, label }) => [name, label])]),
    outputs: slots(node.outputs).map(([, label]) => label),
    options: Object.fromEntries(node.widgets.filter((widget) => widget.options.getOptionLabel).map(optionsOf)),
    category: node.constructor.nodeData.category,
  };
}"""


TITLES = "(kinds) => kinds.map((kind) => LiteGraph.registered_node_types[kind].title)"


@contextmanager
def chinese_page(tab: Tab) -> Iterator[None]:
    """The page in Chinese. Nodes are named anew when their definitions are read again, once the names are there."""
    with setting(tab, "Comfy.Locale", "zh"):
        refresh_until(tab, [translations("zh", "nodeDefs")[kind]["display_name"] for kind in MAIN])
        yield
    refresh_until(tab, ["Lumina Loader", "Lumina Prompt", "Lumina Sampler"])


def refresh_until(tab: Tab, titles: list[str]) -> None:
    for _ in range(TRIES):
        tab.command("Comfy.RefreshNodeDefinitions")
        shown = tab.page.evaluate(TITLES, MAIN)
        if shown == titles:
            return
    raise AssertionError(f"the nodes are named {shown}; expected {titles}")


def test_chinese_names_and_tooltips(tab, tmp_path):
    chinese = translations("zh", "nodeDefs")
    category = translations("zh", "main")["nodeCategories"]["Lumina-mGPT 2"]["0"]
    with chinese_page(tab):
        ids = tab.make({kind: (kind, 100 + 500 * column, 100) for column, kind in enumerate(MAIN)}, [])
        for kind, node in ids.items():
            expected, shown = chinese[kind], tab.page.evaluate(SHOWN_NAMES, node)
            assert shown["title"] == expected["display_name"] and not shown["title"].isascii()
            named = {name: one["name"] for name, one in expected["inputs"].items()}
            assert {name: shown["inputs"][name] for name in named} == named
            assert shown["outputs"] == [one["name"] for one in expected["outputs"].values()]
            options = {name: one["options"] for name, one in expected["inputs"].items() if "options" in one}
            assert shown["options"] == options and shown["category"] == category
        cfg = chinese[SAMPLER]["inputs"]["cfg"]
        assert tab.tooltip(ids[SAMPLER], "cfg", cfg["name"]) == cfg["tooltip"]
        if tab.rendering == VUE:
            loader, prompt = chinese[LOADER]["inputs"], chinese[PROMPT]["inputs"]
            for words in (prompt["width"]["name"], loader["weights"]["name"], loader["weights"]["options"]["auto"]):
                tab.page.get_by_text(words, exact=True).first.wait_for()
        tab.page.screenshot(path=tmp_path / "zh.png")


# Widgets of Lumina Prompt

SHOWN = "(id) => app.graph.getNodeById(Number(id)).widgets.filter(({ hidden }) => !hidden).map(({ name }) => name)"
DISCONNECT = """(id) => {
  const node = app.graph.getNodeById(Number(id));
  node.disconnectInput(node.inputs.findIndex(({ name }) => name === "canvas"));
}"""
OLD_VALUES = ["text to image", "a red circle", 64, 96]


def test_lumina_prompt_shows_the_widgets_of_its_task(tab, tmp_path):
    """Also in a workflow stored when the node had four widgets."""
    workflow = json.loads(TEXT_TO_IMAGE.read_text(encoding="utf-8"))
    (stored,) = [node for node in workflow["nodes"] if node["type"] == PROMPT]
    stored["widgets_values"], stored["inputs"] = OLD_VALUES, []
    old = tmp_path / "old.json"
    old.write_text(json.dumps(workflow))
    tab.open_file(old)
    (node,) = tab.nodes_of(PROMPT)
    always = ["task", "prompt", "width", "height", "template"]
    assert tab.page.evaluate(SHOWN, node) == always
    assert list(tab.widgets(node).values()) == [*OLD_VALUES, "depth", "", ""]
    subjects = [("subject-driven", {"object"}), ("subject-driven (released program)", {"object"})]
    for task, extra in [("image pair", {"map"}), *subjects, ("edit", set()), ("predict", {"map"})]:
        tab.set_widget(node, "task", task)
        assert set(tab.page.evaluate(SHOWN, node)) == {*always, *extra}


def test_lumina_prompt_hides_the_size_while_a_canvas_is_connected(tab):
    tab.open_file(CONTINUE)
    node = tab.nodes_of(PROMPT)[-1]
    assert tab.page.evaluate(SHOWN, node) == ["task", "prompt", "template"]
    tab.page.evaluate(DISCONNECT, node)
    assert tab.page.evaluate(SHOWN, node) == ["task", "prompt", "width", "height", "template"]
