"""What the documents tell a reader to type works, and what they name is there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
MOST_README_WORDS = 900

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", read(page), re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors that a page has for its headings."""
    headings = re.findall(r"^#+ (.+)$", read(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def run_python(arguments: list[str], folder: Path) -> None:
    """Runs Python with the repository importable, in an empty folder."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def assert_demo_picture(path: Path) -> None:
    with Image.open(path) as picture:
        assert (picture.size, picture.mode) == ((96, 96), "RGB")


def test_readme_is_short() -> None:
    assert len(read(ROOT / "README.md").split()) <= MOST_README_WORDS


def test_first_command_draws_the_picture(tmp_path: Path) -> None:
    *_, draw = blocks(ROOT / "README.md", "bash")[0].split("&&")
    interpreter, *arguments = shlex.split(draw)
    assert interpreter == ".venv/bin/python"
    run_python(arguments, tmp_path)
    assert_demo_picture(tmp_path / "picture.png")


def test_second_command_runs_the_tests() -> None:
    *_, test = blocks(ROOT / "README.md", "bash")[1].split("&&")
    assert shlex.split(test) == [".venv/bin/python", "-m", "pytest"]


def test_python_example_draws_a_picture(tmp_path: Path) -> None:
    (example,) = blocks(DOCS / "python.md", "python")
    run_python(["-c", example], tmp_path)
    assert_demo_picture(tmp_path / "picture_python.png")


def test_every_option_of_the_reference_exists(capsys: pytest.CaptureFixture[str]) -> None:
    from lumina_core.cli.main import make_parser

    (reference,) = blocks(DOCS / "cli.md", "text")
    for command in reference.split("python -m lumina_core ")[1:]:
        name = command.split()[0]
        with pytest.raises(SystemExit, match="0"):
            make_parser().parse_args([name, "--help"])
        options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
        assert set(re.findall(r"--[a-z-]+", command)) == options, name


def test_every_node_is_in_the_table() -> None:
    readme = read(ROOT / "README.md")
    schemas = json.loads(read(ROOT / "tests" / "nodes" / "schemas.json"))
    for schema in schemas.values():
        assert f"| **{schema['display_name']}** |" in readme


@every_page
def test_every_local_link_leads_somewhere(page: Path) -> None:
    text = read(page)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for link in (link for link in links if "://" not in link):
        path, _, anchor = link.partition("#")
        target = page.parent / unquote(path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@every_page
def test_every_source_file_that_is_named_exists(page: Path) -> None:
    named = re.findall(r"`((?:[\w.-]+/)+[\w-]+\.py)`", read(page))
    assert named or page.name != "architecture.md"
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_requirements_are_those_of_the_package() -> None:
    tomllib = pytest.importorskip("tomllib", reason="reading pyproject.toml needs Python 3.11 or newer")
    project = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]
    lines = read(ROOT / "requirements.txt").splitlines()
    required = [line for line in lines if line and not line.startswith("#")]
    assert required == project["dependencies"]
    assert not any(name.startswith("torch") for name in required)
