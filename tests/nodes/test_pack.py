"""The pack's files as ComfyUI finds them; none of this needs ComfyUI."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

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


def test_locale_names_the_nodes_as_the_schemas_do():
    named = json.loads((PACK / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert {node_id: node["display_name"] for node_id, node in named.items()} == {
        node_id: schema["display_name"] for node_id, schema in SCHEMAS.items()
    }


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_example_workflow_has_a_picture_and_all_its_widgets(path):
    with Image.open(path.with_suffix(".jpg")) as picture:
        assert picture.format == "JPEG"
    for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
        if node["type"] in SCHEMAS:
            links = {one["name"] for one in node["inputs"] if "widget" not in one}
            kinds = SCHEMAS[node["type"]]["inputs"]
            widgets = [name for name, kind in kinds if kind in WIDGET_TYPES and name not in links]
            controls = int("seed" in widgets)
            assert len(node["widgets_values"]) == len(widgets) + controls, node["type"]


WIDGET_TYPES = ("COMBO", "INT", "FLOAT", "STRING", "BOOLEAN")
