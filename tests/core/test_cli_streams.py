"""A command does its work where standard output or errors are closed, as under cron, or missing, as under pythonw."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lumina_core.cli import common
from lumina_core.cli.main import main

from .cli_runs import CommandLine

ROOT = Path(__file__).parents[2]
SHELL = shutil.which("sh")
NEEDS_SHELL = pytest.mark.skipif(SHELL is None or os.name == "nt", reason="files are closed by a shell here")
COMMANDS = ("generate", "encode", "decode", "convert", "info", "bench")
ALL = "<&- >&- 2>&-"


def arguments(lumina: CommandLine, noise: Path, command: str) -> list[str]:
    """A command with its input, which writes `out.*`."""
    draw = ("--prompt", "x", "--width", 32, "--height", 32, "--weights", "fp32", "--out", lumina.path("out.png"))
    options: dict[str, tuple[object, ...]] = {
        "generate": draw,
        "encode": (noise, "--tokens-out", lumina.path("out.json")),
        "decode": (lumina.path("o.json"), "--out", lumina.path("out.png")),
        "convert": ("--weights", "int4", "--out", lumina.path("out.safetensors")),
        "info": (),
        "bench": ("--steps", 1, "--windows", 1, "--context", 200),
    }
    return [command, *map(str, options[command]), "--checkpoint", str(lumina.checkpoint), "--device", "cpu"]


def run_closed(closed: str, *options: str) -> int:
    assert SHELL is not None
    command = [SHELL, "-c", f'exec "$0" "$@" {closed}', sys.executable, "-m", "lumina_core", *options]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def written(lumina: CommandLine) -> list[str]:
    return [name for name in lumina.files() if name.startswith("out")]


OUTPUTS = {"generate": ["out.png"], "encode": ["out.json"], "decode": ["out.png"], "convert": ["out.safetensors"]}


@NEEDS_SHELL
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_with_all_files_closed_does_its_work(lumina: CommandLine, noise: Path, command: str) -> None:
    if command == "decode":
        lumina.generate().succeeded()
    assert run_closed(ALL, *arguments(lumina, noise, command)) == 0
    assert written(lumina) == OUTPUTS.get(command, [])


@NEEDS_SHELL
@pytest.mark.parametrize("closed", ["2>&-", ">&-"])
def test_a_picture_is_drawn_with_one_file_closed(lumina: CommandLine, noise: Path, closed: str) -> None:
    assert run_closed(closed, *arguments(lumina, noise, "generate")) == 0
    assert written(lumina) == ["out.png"]


@NEEDS_SHELL
def test_bad_input_with_all_files_closed_keeps_its_exit_code(lumina: CommandLine, noise: Path) -> None:
    assert run_closed(ALL, *arguments(lumina, noise, "generate"), "--width", "33") == 2
    assert run_closed(ALL, "--help") == 0


@NEEDS_SHELL
def test_what_a_library_prints_on_closed_errors_goes_into_no_output(tmp_path: Path) -> None:
    code = (
        "import os, sys; from lumina_core.__main__ import open_standard_files; open_standard_files()\n"
        "with open(sys.argv[1], 'wb') as file: os.write(2, b'a warning'); file.write(b'content')"
    )
    command = [str(SHELL), "-c", f'exec "$0" "$@" {ALL}', sys.executable, "-c", code, str(tmp_path / "o")]
    subprocess.run(command, cwd=ROOT, check=True)
    assert (tmp_path / "o").read_bytes() == b"content"


class Closed:
    """A stream that was closed."""

    def isatty(self) -> bool:
        raise ValueError("I/O operation on closed file")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_without_streams_does_its_work(
    lumina: CommandLine, noise: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    if command == "decode":
        lumina.generate().succeeded()
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(arguments(lumina, noise, command)) == 0
    assert written(lumina) == OUTPUTS.get(command, [])


def test_a_bar_moves_where_errors_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Closed())
    with common.progress_bar(total=3) as bar:
        bar.update()
