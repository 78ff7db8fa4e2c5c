"""Compatibility with stored workflows: node ids, and the order of widgets, inputs and outputs.

`schemas.json` holds the published schemas. New nodes, widgets and options are appended; nothing else in it changes.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PACK = HERE.parents[1]
PUBLISHED = json.loads((HERE / "schemas.json").read_text(encoding="utf-8"))
FROM_FOLDERS = ("checkpoint", "movqgan", "lora_name")


def find_comfyui() -> tuple[Path, Path]:
    folder = Path(os.environ.get("COMFYUI_PATH", Path.home() / "comfy" / "ComfyUI"))
    python = Path(os.environ.get("COMFYUI_PYTHON", folder / ".venv/bin/python"))
    if not (folder / "main.py").is_file():
        pytest.skip(f"no ComfyUI at {folder}; set COMFYUI_PATH to its folder")
    if not python.is_file():
        pytest.skip(f"no Python for ComfyUI at {python}; set COMFYUI_PYTHON to it")
    return folder, python


@pytest.fixture(scope="module")
def schemas() -> dict:
    """The schemas of the pack's nodes, as ComfyUI loads them."""
    folder, python = find_comfyui()
    command = [str(python), str(HERE / "dump_schemas.py"), str(folder), str(PACK)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180, check=False)
    assert "SCHEMAS" in done.stdout, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(done.stdout.split("SCHEMAS")[1])


@pytest.mark.parametrize("node_id", PUBLISHED)
def test_schema_extends_the_published_one(schemas, node_id):
    published, actual = PUBLISHED[node_id], schemas[node_id]
    assert actual["category"] == "Lumina-mGPT 2.0"
    for kind in ("inputs", "outputs"):
        assert actual[kind][: len(published[kind])] == published[kind]
    for name, options in published["options"].items():
        assert actual["options"][name][: len(options)] == options


@pytest.mark.parametrize("node_id", PUBLISHED)
def test_added_inputs_are_optional(schemas, node_id):
    """ComfyUI must still accept an API workflow that was written before an input existed."""
    added = schemas[node_id]["inputs"][len(PUBLISHED[node_id]["inputs"]) :]
    assert {name for name, _ in added} <= set(schemas[node_id]["optional"])


def test_every_node_is_published(schemas):
    assert set(schemas) == set(PUBLISHED)


@pytest.mark.parametrize("node_id", PUBLISHED)
def test_a_widget_that_an_api_workflow_omits_has_its_declared_default(schemas, node_id):
    schema = schemas[node_id]
    declared = {name: value for name, value in schema["defaults"].items() if name in schema["optional"]}
    if schema["takes_lists"]:
        declared = {name: [value] for name, value in declared.items()}
    assert {name: schema["in_python"].get(name) for name in declared} == declared


@pytest.mark.parametrize("node_id", PUBLISHED)
def test_everything_that_a_user_sees_is_explained(schemas, node_id):
    schema = schemas[node_id]
    assert schema["description"] and schema["aliases"]
    assert all(schema["tooltips"].values()), schema["tooltips"]
    assert len(schema["output_tooltips"]) == len(schema["outputs"]) and all(schema["output_tooltips"])


WORDS = (
    *(
        "lumina",
        "autoregressive",
        "token",
        "vae",
        "unet",
        "sampler",
        "inpaint",
        "outpaint",
        "control",
        "canny",
        "depth",
    ),
    *("quantize", "int4", "llm", "prompt", "rerank", "checkpoint", "generate image", "image edit", "text to image"),
)


@pytest.mark.parametrize("word", WORDS)
def test_words_that_people_type_are_aliases(schemas, word):
    assert any(word in alias for schema in schemas.values() for alias in schema["aliases"])
