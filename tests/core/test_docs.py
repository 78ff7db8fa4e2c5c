"""What the README tells a newcomer to type works, and it names what is there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def run_python(arguments: list[str], folder: Path) -> str:
    """Runs Python with the repository importable, in an empty folder, and gives what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_first_command_draws_the_picture(tmp_path: Path) -> None:
    *_, draw = blocks("bash")[0].split("&&")
    interpreter, *arguments = shlex.split(draw)
    assert interpreter == ".venv/bin/python"
    run_python(arguments, tmp_path)
    with Image.open(tmp_path / "picture.png") as picture:
        assert (picture.size, picture.mode) == ((64, 64), "RGB")


def test_python_example_draws_a_picture(tmp_path: Path) -> None:
    (example,) = blocks("python")
    assert "64 tokens in" in run_python(["-c", example], tmp_path)
    with Image.open(tmp_path / "picture_python.png") as picture:
        assert picture.size == (64, 64)


def test_every_option_of_the_reference_exists(capsys: pytest.CaptureFixture[str]) -> None:
    from lumina_core.cli.main import make_parser

    (reference,) = blocks("text")
    for command in reference.split("python -m lumina_core ")[1:]:
        name = command.split()[0]
        with pytest.raises(SystemExit, match="0"):
            make_parser().parse_args([name, "--help"])
        told = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
        assert set(re.findall(r"--[a-z-]+", command)) <= told, name


def test_every_node_is_in_the_table() -> None:
    schemas = json.loads((ROOT / "tests" / "nodes" / "schemas.json").read_text(encoding="utf-8"))
    for schema in schemas.values():
        assert f"| **{schema['display_name']}** |" in README


def test_everything_linked_in_the_repository_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README) + re.findall(r'src="([^"]+)"', README)
    local = [link for link in links if "://" not in link]
    assert local
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_requirements_are_those_of_the_package() -> None:
    tomllib = pytest.importorskip("tomllib", reason="reading pyproject.toml needs Python 3.11 or newer")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = [line for line in lines if line and not line.startswith("#")]
    assert required == project["dependencies"]
    assert not any(name.startswith("torch") for name in required)
