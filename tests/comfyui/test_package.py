"""ComfyUI with the package that users get, in a folder as the registry installs it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import quote

import comfy_server
import pytest
from workflows import SAVE, text_to_image

from tests.nodes.test_package import PACK, copy_package

# The registry's package is installed into a folder of its name, which is the `name` in pyproject.toml.
NAME = re.search(r'^name = "(.+)"$', (PACK / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]


@pytest.fixture
def server_of_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A running server whose only copy of the pack is the package, and the files of the package."""
    found = comfy_server.find_comfyui()
    if isinstance(found, str):
        pytest.skip(found)
    monkeypatch.setattr(comfy_server, "PACK_NAME", NAME)  # no link to the clone where this folder exists
    files = copy_package(tmp_path / "custom_nodes" / NAME)
    with comfy_server.ComfyServer(*found, tmp_path) as running:
        yield running, files


def in_folder(files: set[str], folder: str, suffix: str = "") -> list[str]:
    """The paths, relative to a folder of the package, of its files there."""
    return sorted(path.removeprefix(folder) for path in files if path.startswith(folder) and path.endswith(suffix))


def test_the_package_works_in_comfyui(server_of_package):
    server, files = server_of_package
    check_nodes(server)
    run = server.run(text_to_image(seed=1))
    assert run.succeeded, run.error
    (picture,) = server.pictures(run, SAVE)
    assert picture.size == (96, 96) and len(picture.getcolors(96 * 96)) > 1
    check_templates(server, files)
    check_served(server, files)


def check_nodes(server) -> None:
    """The nodes are there, and are the package's."""
    assert not (server.base / "custom_nodes" / NAME).is_symlink()
    infos = {name: info for name, info in server.get("/object_info").items() if name.startswith("LuminaMGPT2_")}
    schemas = json.loads((PACK / "tests" / "nodes" / "schemas.json").read_text(encoding="utf-8"))
    reason = f"are all files of the nodes in git? The server's log ends with:\n{server.log[-4000:]}"
    assert infos.keys() == schemas.keys(), reason
    assert {info["python_module"] for info in infos.values()} == {f"custom_nodes.{NAME}"}


def check_templates(server, files: set[str]) -> None:
    """The examples and their pictures are among the templates, the subgraphs among the blueprints."""
    examples = in_folder(files, "example_workflows/", ".json")
    assert examples and sorted(server.get("/workflow_templates")[NAME]) == [name[:-5] for name in examples]
    for name in examples:
        address = f"/api/workflow_templates/{NAME}/{quote(name[:-5])}"
        assert server.get(f"{address}.json")["nodes"]
        assert server.get_bytes(f"{address}.jpg").startswith(b"\xff\xd8")
    blueprints = {one["name"] for one in server.get("/global_subgraphs").values() if NAME in one["info"]["node_pack"]}
    assert blueprints == {Path(name).stem for name in in_folder(files, "subgraphs/", ".json")}


def check_served(server, files: set[str]) -> None:
    """Help pages, their pictures and scripts are served as they are, and the names of every language."""
    served = in_folder(files, "web/")
    assert any(name.startswith("docs/LuminaMGPT2_") for name in served)
    for name in served:
        assert server.get_bytes(f"/extensions/{NAME}/{name}") == (PACK / "web" / name).read_bytes(), name
    languages = {name.split("/")[0] for name in in_folder(files, "locales/")}
    translated = server.get("/i18n")
    assert languages <= translated.keys()
    assert all("LuminaMGPT2_LoadModel" in translated[language]["nodeDefs"] for language in languages)
