"""The files of the pack. No test here needs ComfyUI."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lumina_core.tokens.prompts import TEMPLATES

PACK = Path(__file__).parents[2]
SCHEMAS = json.loads((Path(__file__).parent / "schemas.json").read_text(encoding="utf-8"))


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
