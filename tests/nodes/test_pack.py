"""The files of the pack. No test here needs ComfyUI."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from lumina_core.tokens.prompts import TEMPLATES

PACK = Path(__file__).parents[2]
SCHEMAS = json.loads((Path(__file__).parent / "schemas.json").read_text(encoding="utf-8"))
WORKFLOWS = sorted((PACK / "example_workflows").glob("*.json"))


def test_is_importable_without_comfyui(pack):
    assert callable(pack.comfy_entrypoint)
    assert not hasattr(pack, "NODE_CLASS_MAPPINGS")
    assert (PACK / pack.WEB_DIRECTORY).is_dir()


@pytest.mark.parametrize("node_id", SCHEMAS)
def test_every_node_has_help(node_id):
    assert (PACK / "web" / "docs" / f"{node_id}.md").read_text(encoding="utf-8").startswith("# ")


def test_locale_has_the_display_names_of_the_schemas():
    named = json.loads((PACK / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert {node_id: node["display_name"] for node_id, node in named.items()} == {
        node_id: schema["display_name"] for node_id, schema in SCHEMAS.items()
    }


def test_help_shows_the_wording_of_every_task():
    page = (PACK / "web" / "docs" / "LuminaMGPT2_TaskPrompt.md").read_text(encoding="utf-8")
    blocks = set(re.findall(r"```text\n(.*?)\n```", page, re.DOTALL))
    assert blocks == {template.text for template in TEMPLATES.values()}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_example_workflow_has_a_picture(path):
    with Image.open(path.with_suffix(".jpg")) as picture:
        assert picture.format == "JPEG"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_example_workflow_has_all_its_widgets(path):
    check_widgets(json.loads(path.read_text(encoding="utf-8"))["nodes"])


@pytest.mark.parametrize("path", sorted((PACK / "subgraphs").glob("*.json")), ids=lambda path: path.stem)
def test_subgraph_is_one_node_with_all_its_widgets(path):
    """ComfyUI's node library expects a workflow of one node and the subgraph of that node."""
    blueprint = json.loads(path.read_text(encoding="utf-8"))
    (node,), (subgraph,) = blueprint["nodes"], blueprint["definitions"]["subgraphs"]
    assert node["type"] == subgraph["id"] and subgraph["name"] == path.stem
    check_widgets(subgraph["nodes"])
    for inner in subgraph["nodes"]:
        if inner["type"] in SCHEMAS:  # older frontends expect an input for every widget, connected or not
            names = {name for name, _ in SCHEMAS[inner["type"]]["inputs"]}
            assert {slot["name"] for slot in inner["inputs"]} == names, inner["type"]


def check_widgets(nodes):
    for node in nodes:
        if node["type"] in SCHEMAS:
            links = {one["name"] for one in node["inputs"] if "widget" not in one}
            kinds = SCHEMAS[node["type"]]["inputs"]
            widgets = [name for name, kind in kinds if kind in WIDGET_TYPES and name not in links]
            controls = int("seed" in widgets)
            assert len(node["widgets_values"]) == len(widgets) + controls, node["type"]


WIDGET_TYPES = ("COMBO", "INT", "FLOAT", "STRING", "BOOLEAN")
