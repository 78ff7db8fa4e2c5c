"""Node ids, and the order of widgets, inputs and outputs: what stored workflows depend on.

`schemas.json` is the promise. A new node, widget or choice is added to it at the end; nothing in it ever changes.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PACK = HERE.parents[1]
PROMISED = json.loads((HERE / "schemas.json").read_text(encoding="utf-8"))
FROM_FOLDERS = ("checkpoint", "movqgan")


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
    """The schemas of the nodes that ComfyUI gets from the pack."""
    folder, python = find_comfyui()
    command = [str(python), str(HERE / "dump_schemas.py"), str(folder), str(PACK)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180, check=False)
    assert "SCHEMAS" in done.stdout, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(done.stdout.split("SCHEMAS")[1])


@pytest.mark.parametrize("node_id", PROMISED)
def test_keeps_the_promise(schemas, node_id):
    promised, actual = PROMISED[node_id], schemas[node_id]
    assert actual["category"] == "Lumina-mGPT 2.0"
    for kind in ("inputs", "outputs"):
        assert actual[kind][: len(promised[kind])] == promised[kind]
    for name, options in promised["options"].items():
        assert actual["options"][name][: len(options)] == options


@pytest.mark.parametrize("node_id", PROMISED)
def test_what_was_added_is_optional(schemas, node_id):
    """A workflow over HTTP that was written before an input existed must still be accepted."""
    added = schemas[node_id]["inputs"][len(PROMISED[node_id]["inputs"]) :]
    assert {name for name, _ in added} <= set(schemas[node_id]["optional"])


def test_every_node_is_promised(schemas):
    assert set(schemas) == set(PROMISED)
