"""What a command does wrong is noticed: the judge of the fuzzer, on commands that misbehave on purpose."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from . import process
from .attempts import MIB, Expected, case, drawn, either, plain, refused, same
from .place import Place
from .run import (
    CODE_RUN,
    DRAWN,
    GOOD_REFUSED,
    LEFT_BEHIND,
    MEMORY,
    REFUSED,
    SILENT,
    SLOW,
    TRACEBACK,
    UNCLEAR,
    Runner,
)

Command = Callable[[list[str]], int]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(tmp_path_factory.mktemp("runner"))


def place_of(arguments: list[str]) -> Path:
    return Path(arguments[arguments.index("--checkpoint") + 1]).parent


def refuse(arguments: list[str]) -> int:
    print("lumina_core: the file is no picture", file=sys.stderr)
    return 2


def two_lines(arguments: list[str]) -> int:
    print("WARNING: odd", file=sys.stderr)
    return refuse(arguments)


def on_stdout(arguments: list[str]) -> int:
    print("working")
    return refuse(arguments)


def raise_error(arguments: list[str]) -> int:
    raise KeyError("x")


def leave_result(arguments: list[str]) -> int:
    (place_of(arguments) / "out" / ".lumina-x").write_text("")
    return refuse(arguments)


def leave_temporary(arguments: list[str]) -> int:
    tempfile.mkdtemp()
    return refuse(arguments)


def change_input(arguments: list[str]) -> int:
    (place_of(arguments) / "checkpoint" / "config.json").write_text("{}")
    return refuse(arguments)


def draw_nothing(arguments: list[str]) -> int:
    return 0


def run_code(arguments: list[str]) -> int:
    (place_of(arguments) / "canary").mkdir()
    return refuse(arguments)


def take_memory(arguments: list[str]) -> int:
    bytearray(128 * MIB)[:: 2**12]
    return refuse(arguments)


def hang(arguments: list[str]) -> int:
    while True:
        with contextlib.suppress(Exception):  # a limit is none
            sum(range(1000))


@pytest.mark.parametrize(
    ("command", "expected", "verdict"),
    [
        (refuse, refused("picture"), REFUSED),
        (refuse, drawn(), GOOD_REFUSED),
        (refuse, refused("checkpoint"), UNCLEAR),
        (two_lines, refused(), TRACEBACK),
        (on_stdout, refused(), TRACEBACK),
        (raise_error, refused(), TRACEBACK),
        (leave_result, refused(), LEFT_BEHIND),
        (leave_temporary, refused(), LEFT_BEHIND),
        (change_input, refused(), LEFT_BEHIND),
        (draw_nothing, refused(), SILENT),
        (draw_nothing, either(), SILENT),
        (run_code, refused(), CODE_RUN),
        (take_memory, refused(), MEMORY),
        (hang, refused(), SLOW),
    ],
)
def test_what_goes_wrong_is_noticed(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, command: Command, expected: Expected, verdict: str
) -> None:
    monkeypatch.setattr(process, "main", command)
    monkeypatch.setattr(process, "LIMIT_SECONDS", 0.5 if verdict == SLOW else 20.0)
    assert runner.run(lambda place: case("x", plain, expected, most_bytes=64 * MIB)).verdict == verdict


def test_the_same_picture_is_the_same(runner: Runner) -> None:
    assert runner.run(lambda place: case("x", plain, same())).verdict == DRAWN


def test_another_picture_is_noticed(runner: Runner) -> None:
    def of_another_theta(place: Place) -> list[str]:
        place.change_config(rope_theta=50_000.0)
        return place.generate()

    assert runner.run(lambda place: case("x", of_another_theta, same())).verdict == SILENT


def test_what_the_log_lacks_is_noticed(runner: Runner) -> None:
    assert runner.run(lambda place: case("x", plain, same("the index is stale"))).verdict == SILENT
