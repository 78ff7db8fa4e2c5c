"""The example workflows, their cards and the subgraph blueprints, as files. No test here needs ComfyUI."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

PACK = Path(__file__).parents[2]
SCHEMAS = json.loads((Path(__file__).parent / "schemas.json").read_text(encoding="utf-8"))
EXAMPLES = sorted((PACK / "example_workflows").glob("*.json"))
BLUEPRINTS = sorted((PACK / "subgraphs").glob("*.json"))
STORED = [*EXAMPLES, *BLUEPRINTS]

WIDGET_TYPES = ("COMBO", "INT", "FLOAT", "STRING", "BOOLEAN")
NEVER_WIDGETS = {
    "LuminaMGPT2_BestOfN": {"scores_1", "scores_2", "scores_3"},
    "LuminaMGPT2_ThinkingAnswer": {"answer", "prompt"},
}
INPUT_NODE, OUTPUT_NODE = -10, -20
TITLE_HEIGHT = 30
# The text that a running node shows below its widgets, and what keeps nodes apart.
SHOW_PROGRESS = ("LuminaMGPT2_LoadModel", "LuminaMGPT2_SJDSampler")
PROGRESS_HEIGHT, LEAST_GAP, LEAST_SAMPLER_WIDTH = 65, 20, 340
CARD_SIDES, MOST_CARD_BYTES = range(512, 641), 60_000
VERSION = re.compile(r"\d+\.\d+\.\d+")
CATEGORY = "Lumina-mGPT 2.0"


@dataclass(frozen=True)
class Link:
    """From output `start` of a node to input `end` of another one."""

    source: int
    start: int
    target: int
    end: int
    kind: str


def each(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def subgraphs(workflow: dict) -> list[dict]:
    return workflow.get("definitions", {}).get("subgraphs", [])


def graphs(workflow: dict) -> list[dict]:
    """The workflow and its subgraphs."""
    return [workflow, *subgraphs(workflow)]


def all_nodes(workflow: dict) -> Iterator[dict]:
    for graph in graphs(workflow):
        yield from graph["nodes"]


def links_of(graph: dict) -> dict[int, Link]:
    """The links by their id; a workflow stores them as lists, a subgraph as objects."""
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    stored = [one if isinstance(one, list) else [one[name] for name in names] for one in graph["links"]]
    assert len({one[0] for one in stored}) == len(stored)
    return {one[0]: Link(*one[1:]) for one in stored}


def ends_of(graph: dict) -> tuple[dict[int, tuple], dict[int, tuple]]:
    """Where the slots say that each link starts and ends: (node, slot, type) by the link's id."""
    starts, ends = {}, {}
    for node in graph["nodes"]:
        ends |= {slot["link"]: (node["id"], i, slot["type"]) for i, slot in enumerate(node["inputs"]) if slot["link"]}
        for i, slot in enumerate(node["outputs"]):
            starts |= dict.fromkeys(slot["links"] or (), (node["id"], i, slot["type"]))
    for i, slot in enumerate(graph.get("inputs", ())):
        starts |= dict.fromkeys(slot["linkIds"], (INPUT_NODE, i, slot["type"]))
    for i, slot in enumerate(graph.get("outputs", ())):
        ends |= dict.fromkeys(slot["linkIds"], (OUTPUT_NODE, i, slot["type"]))
    return starts, ends


# Both


@each(STORED)
def test_no_two_nodes_share_an_id(path):
    """Nodes of subgraphs too: the frontend gives one of the two a new id, with a warning."""
    workflow = read(path)
    ids = [node["id"] for node in all_nodes(workflow)]
    assert len(set(ids)) == len(ids) and max(ids) == workflow["last_node_id"]


@each(STORED)
def test_links_and_slots_agree(path):
    for graph in graphs(read(path)):
        links, (starts, ends) = links_of(graph), ends_of(graph)
        assert {name: (one.source, one.start, starts[name][2]) for name, one in links.items()} == starts
        assert {name: (one.target, one.end, ends[name][2]) for name, one in links.items()} == ends
        wrong = [name for name, one in links.items() if {starts[name][2], ends[name][2], "*"} != {one.kind, "*"}]
        assert wrong == []


@each(STORED)
def test_reroutes_belong_to_links(path):
    """A link names the last of its reroutes, a reroute the one before it and all links through it."""
    workflow = read(path)
    reroutes = {one["id"]: one for one in workflow["extra"].get("reroutes", ())}
    through = {name: set() for name in reroutes}
    for link in workflow["extra"].get("linkExtensions", ()):
        at = link["parentId"]
        while at is not None:
            through[at].add(link["id"])
            at = reroutes[at].get("parentId")
    assert through == {name: set(one["linkIds"]) for name, one in reroutes.items()}
    assert set().union(*through.values()) <= links_of(workflow).keys()


@each(STORED)
def test_nodes_have_all_their_slots_and_widgets(path):
    """Older frontends expect an input for every widget, connected or not."""
    for node in all_nodes(read(path)):
        if node["type"] not in SCHEMAS:
            continue
        schema = SCHEMAS[node["type"]]
        kinds = dict(map(tuple, schema["inputs"]))
        assert {slot["name"]: slot["type"] for slot in node["inputs"]} == kinds
        assert [[slot["name"], slot["type"]] for slot in node["outputs"]] == schema["outputs"]
        widgets = {slot["name"] for slot in node["inputs"] if "widget" in slot}
        assert len(node["widgets_values"]) == len(widgets) + ("seed" in widgets)
        links = {name for name in kinds.keys() - widgets if kinds[name] in WIDGET_TYPES}
        assert links == NEVER_WIDGETS.get(node["type"], set())


@each(STORED)
def test_every_node_names_its_pack(path):
    """So that a user who lacks the pack is told its name."""
    workflow = read(path)
    names = {one["id"]: one["name"] for one in subgraphs(workflow)}
    for node in all_nodes(workflow):
        ours = node["type"] in SCHEMAS or node["type"] in names
        properties = node["properties"]
        assert properties["cnr_id"] == ("lumina-mgpt2" if ours else "comfy-core")
        assert VERSION.fullmatch(properties["ver"])
        assert properties["Node name for S&R"] == names.get(node["type"], node["type"])


@each(STORED)
def test_nodes_of_subgraphs_have_the_slots_of_the_subgraph(path):
    workflow = read(path)
    definitions = {one["id"]: one for one in subgraphs(workflow)}
    instances = [node for node in workflow["nodes"] if node["type"] in definitions]
    assert {node["type"] for node in instances} == definitions.keys()
    for node in instances:
        definition = definitions[node["type"]]
        for side in ("inputs", "outputs"):
            slots = [(slot["name"], slot["type"]) for slot in node[side]]
            assert slots == [(slot["name"], slot["type"]) for slot in definition[side]]
        widgets = [slot for slot in node["inputs"] if "widget" in slot]
        assert all(slot["widget"]["name"] == slot["name"] for slot in widgets)
        assert len(node["widgets_values"]) == len(widgets)
        assert "proxyWidgets" not in node["properties"]


@each(STORED)
def test_sizes_are_those_of_the_model(path):
    """So that nothing but the checkpoint changes between the demo and the published model."""
    for node in all_nodes(read(path)):
        widgets = [slot["name"] for slot in node["inputs"] if "widget" in slot]
        if node["type"] in SCHEMAS and "width" in widgets:
            values = dict(zip(widgets, node["widgets_values"], strict=True))
            assert (values["width"], values["height"]) == (0, 0)


# Example workflows


@each(EXAMPLES)
def test_an_example_says_what_it_shows(path):
    (note,) = [node for node in read(path)["nodes"] if node["type"] == "MarkdownNote"]
    (text,) = note["widgets_values"]
    assert "choose it in *Lumina Loader*" in text and "*Settings → Comfy → Execution → Live preview method*" in text


@each(EXAMPLES)
def test_an_example_saves_its_result(path):
    saves = [node["title"] for node in read(path)["nodes"] if node["type"] == "SaveImage"]
    assert saves and all(title.startswith("Result") for title in saves)


@each(EXAMPLES)
def test_the_seeds_of_an_example_stay(path):
    for node in all_nodes(read(path)):
        if node["type"] == "LuminaMGPT2_SJDSampler":
            assert node["widgets_values"][:2] == [0, "fixed"]


@each(EXAMPLES)
def test_nodes_do_not_overlap(path):
    """Neither as stored nor while a node shows its progress; nodes that show pictures are stored large enough."""
    boxes = [(node["id"], *box(node)) for node in read(path)["nodes"]]
    for (one, *a), (other, *b) in itertools.combinations(boxes, 2):
        apart = any(a[i] + a[i + 2] + LEAST_GAP <= b[i] or b[i] + b[i + 2] + LEAST_GAP <= a[i] for i in (0, 1))
        assert apart, (one, other)


def box(node: dict) -> tuple[float, float, float, float]:
    """Left, top, width and height (px) of a node with its title."""
    (x, y), (width, height) = node["pos"], node["size"]
    if node["type"] in SHOW_PROGRESS:
        height += PROGRESS_HEIGHT
    if node["type"] == "LuminaMGPT2_SJDSampler":
        assert width >= LEAST_SAMPLER_WIDTH
    if node["type"] in ("SaveImage", "PreviewImage"):
        assert min(width, height) >= 250
    return x, y - TITLE_HEIGHT, width, height + TITLE_HEIGHT


@each(EXAMPLES)
def test_the_card_of_an_example_is_square(path):
    card = path.with_suffix(".jpg")
    with Image.open(card) as picture:
        assert picture.format == "JPEG" and picture.width == picture.height and picture.width in CARD_SIDES
    assert card.stat().st_size <= MOST_CARD_BYTES


def test_no_card_is_left_without_its_example():
    assert sorted((PACK / "example_workflows").iterdir()) == sorted(
        path.with_suffix(suffix) for path in EXAMPLES for suffix in (".jpg", ".json")
    )


def test_the_script_orders_every_example():
    script = (PACK / "web" / "templates.js").read_text(encoding="utf-8")
    order = re.search(r"const ORDER = \[(.*?)\];", script, re.DOTALL)[1]
    names = re.findall(r'"([^"]+)"', order)
    assert names[0] == "Text to image"
    assert sorted(names) == [path.stem for path in EXAMPLES]


@each(EXAMPLES)
def test_the_subgraphs_of_an_example_are_blueprints(path):
    """With the same slots and nodes; only whether the seed changes after a run may differ."""
    blueprints = {path.stem: subgraphs(read(path))[0] for path in BLUEPRINTS}
    for subgraph in subgraphs(read(path)):
        assert outline(subgraph) == outline(blueprints[subgraph["name"]])


@each(EXAMPLES)
def test_two_nodes_never_share_a_subgraph(path):
    """The frontend of ComfyUI 0.16 gives all nodes of a subgraph the values of the last one."""
    workflow = read(path)
    names = {one["id"] for one in subgraphs(workflow)}
    instances = [node["type"] for node in workflow["nodes"] if node["type"] in names]
    assert len(set(instances)) == len(instances)


def outline(subgraph: dict) -> dict:
    slots = {side: [(slot["name"], slot["linkIds"]) for slot in subgraph[side]] for side in ("inputs", "outputs")}
    values = [(node["type"], [v for v in node["widgets_values"] if v not in CONTROLS]) for node in subgraph["nodes"]]
    order = {node["id"]: number for number, node in enumerate(subgraph["nodes"])}
    ends = [{**link, **{end: order.get(link[end], link[end]) for end in ENDS}} for link in subgraph["links"]]
    return {**slots, "links": ends, "values": values, "description": subgraph["description"]}


CONTROLS, ENDS = ("fixed", "randomize"), ("origin_id", "target_id")


# Blueprints


@each(BLUEPRINTS)
def test_a_blueprint_is_one_node_and_its_subgraph(path):
    """As ComfyUI's node library expects it."""
    blueprint = read(path)
    (node,), (subgraph,) = blueprint["nodes"], subgraphs(blueprint)
    assert node["type"] == subgraph["id"] and node["title"] == subgraph["name"] == path.stem
    assert subgraph["category"] == CATEGORY
    assert subgraph["description"] == blueprint["extra"]["BlueprintDescription"] != ""


@each(BLUEPRINTS)
def test_the_inputs_of_a_blueprint_are_in_order(path):
    (node,) = read(path)["nodes"]
    links = [slot["name"] for slot in node["inputs"] if "widget" not in slot]
    widgets = [slot["name"] for slot in node["inputs"] if "widget" in slot]
    assert [slot["name"] for slot in node["inputs"]] == links + widgets
    assert links in (["model", "vae"], ["model", "vae", "image"])
    assert widgets[0] == "prompt" and widgets[-4:] == ["width", "height", "cfg", "seed"]


def test_every_panel_task_has_a_blueprint():
    tasks = set()
    for path in BLUEPRINTS:
        prompts = [node for node in all_nodes(read(path)) if node["type"] == "LuminaMGPT2_TaskPrompt"]
        tasks |= {node["widgets_values"][0] for node in prompts}
    offered = SCHEMAS["LuminaMGPT2_TaskPrompt"]["options"]["task"]
    assert tasks == {task for task in offered if not task.endswith(")")}
