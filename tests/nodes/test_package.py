"""The package that the registry gives to users: the files that git tracks, without those that .comfyignore names."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from PIL import Image

PACK = Path(__file__).parents[2]
MOST_BYTES = 27_000_000
MOST_ICON_SIDE = 400
# What a user needs: what ComfyUI loads and serves, and the README with the pages it leads to.
SHIPPED = {
    *("__init__.py", "nodes", "lumina_core", "web", "locales", "example_workflows", "subgraphs"),
    *("pyproject.toml", "requirements.txt", "LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs"),
}
REGISTRY_NAME = re.compile(r"[a-z]+([-_.]?[a-z0-9]+)*")
# Fails where something that the engine imports is missing, except Triton, or is not the package's.
IMPORT_ALL = """
import importlib, pathlib, pkgutil, lumina_core
for module in pkgutil.walk_packages(lumina_core.__path__, "lumina_core."):
    try:
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
assert pathlib.Path(lumina_core.__file__).parents[1] == pathlib.Path.cwd(), lumina_core.__file__
"""


def git_files(*options: str) -> set[str]:
    """Paths, relative to the pack, that `git ls-files` prints. Skips the test where git does not know the pack."""
    git = shutil.which("git")
    if git is None or not (PACK / ".git").exists():
        pytest.skip("the package is made of the files that git tracks: this needs git and a clone")
    command = [git, "-C", str(PACK), "ls-files", "-z", *options]
    listed = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    if listed.returncode:
        pytest.skip(f"git does not list the files of the pack: {listed.stderr.strip()}")
    return {path for path in listed.stdout.split("\0") if path}


def package_files() -> set[str]:
    """The paths of the package's files, as `comfy node pack` chooses them."""
    tracked = git_files("--cached") - git_files("--cached", "--ignored", "--exclude-from", str(PACK / ".comfyignore"))
    return {path for path in tracked if (PACK / path).exists()}


def copy_package(folder: Path) -> set[str]:
    """Writes the package into a folder, which is made; the paths of its files."""
    files = package_files()
    for path in files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACK / path, folder / path)
    return files


def project() -> dict:
    tomllib = pytest.importorskip("tomllib", reason="reading pyproject.toml needs Python 3.11 or newer")
    return tomllib.loads((PACK / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package in a folder of its own."""
    folder = tmp_path_factory.mktemp("package") / "lumina-mgpt2"
    copy_package(folder)
    return folder


def run_python(package: Path, *arguments: str) -> None:
    """Runs Python in the folder of the package, with nothing of the clone on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=package, env={**environment, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_package_is_what_users_need_and_nothing_else():
    expected = {path for path in git_files("--cached") if path.split("/")[0] in SHIPPED and (PACK / path).exists()}
    assert package_files() == expected
    assert {path.split("/")[0] for path in expected} == SHIPPED


def test_the_package_is_small():
    """Unpacked; the zip is smaller."""
    sizes = {path: (PACK / path).stat().st_size for path in package_files()}
    largest = sorted(sizes, key=sizes.get, reverse=True)[:12]
    assert sum(sizes.values()) <= MOST_BYTES, [(path, sizes[path]) for path in largest]


def test_names_are_plain():
    """`comfy node pack` leaves out files whose names git quotes, and Windows has no files with some other signs."""
    assert [path for path in package_files() if not re.fullmatch(r"[\w .()/-]+", path, re.ASCII)] == []


def test_the_readme_leads_nowhere_else(package):
    text = (package / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    local = {link.partition("#")[0] for link in links if "://" not in link}
    assert "docs/icon.png" in local
    assert [path for path in local if not (package / unquote(path)).exists()] == []


def test_all_of_the_engine_is_importable(package):
    run_python(package, "-c", IMPORT_ALL)


def test_the_package_draws_alone(package, tmp_path):
    out = tmp_path / "picture.png"
    options = ("--checkpoint", "demo", "--prompt", "a red circle", "--width", "96", "--height", "96")
    run_python(package, "-m", "lumina_core", "generate", *options, "--out", str(out))
    with Image.open(out) as picture:
        assert picture.size == (96, 96)


# pyproject.toml


def test_the_name_is_one_that_the_registry_wants():
    name = project()["project"]["name"]
    assert REGISTRY_NAME.fullmatch(name) and len(name) < 100
    assert "comfy" not in name


def test_the_registry_finds_what_it_asks_for():
    described = project()
    declared, comfy = described["project"], described["tool"]["comfy"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", declared["version"])
    assert declared["description"] and declared["requires-python"] and declared["classifiers"]
    assert (PACK / declared["license"]["file"]).is_file()
    assert urlsplit(declared["urls"]["Repository"]).scheme == "https"
    assert comfy["DisplayName"] and "PublisherId" in comfy
    assert comfy["Icon"].startswith("https://")


def test_the_icon_fits_the_registry():
    path = "/".join(urlsplit(project()["tool"]["comfy"]["Icon"]).path.split("/")[4:])
    assert path in package_files()
    with Image.open(PACK / path) as icon:
        assert icon.format == "PNG" and icon.width == icon.height <= MOST_ICON_SIDE


def test_a_publisher_fills_in_every_placeholder_or_none():
    described = project()
    comfy = described["tool"]["comfy"]
    urls = (described["project"]["urls"]["Repository"], comfy["Icon"])
    published = bool(comfy["PublisherId"])
    assert [("<owner>" in url) for url in urls] == [not published] * 2


def test_the_version_of_comfyui_is_the_one_that_the_nodes_ask_for(pack):
    earliest = sys.modules[f"{pack.__name__}.nodes.requirements"].COMFYUI
    assert project()["tool"]["comfy"]["requires-comfyui"] == f">={'.'.join(map(str, earliest))}.0"


def test_stored_workflows_name_the_pack_as_the_registry_does():
    stored = [*(PACK / "example_workflows").glob("*.json"), *(PACK / "subgraphs").glob("*.json")]
    named = set()
    for path in stored:
        named |= set(re.findall(r'"cnr_id":\s*"([^"]*)"', json.dumps(json.loads(path.read_text(encoding="utf-8")))))
    assert named <= {project()["project"]["name"], "comfy-core"}
