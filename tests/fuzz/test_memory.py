"""Memory refused anywhere ends a command in one line, or is a fallback that is logged; nothing is left behind."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from . import memory_limits
from .memory_failures import Command, Refuser, commands, fault, plan, run
from .place import Base

NAMES = ("generate", "generate int4", "edit", "encode", "decode", "convert", "info")
REFUSALS_EACH = 4
pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Command]:
    base = Base.make(tmp_path_factory.mktemp("memory") / "base")
    return {command.name: command for command in commands(base, tmp_path_factory.mktemp("pictures"))}


@pytest.mark.parametrize("name", NAMES)
def test_memory_refused_at_any_place(known: dict[str, Command], name: str) -> None:
    good = run(known[name], Refuser())
    for attempt in plan(known[name], REFUSALS_EACH, random.Random(name)):
        assert not fault(attempt, good), (attempt.place, attempt.at, attempt.refusal)


def test_all_commands_are_tried(known: dict[str, Command]) -> None:
    assert tuple(known) == NAMES


def test_a_refusal_that_nobody_tells_of_is_a_fault(known: dict[str, Command], monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge itself: a program that swallows errors and one that dies of them are both found out."""
    (attempt,) = plan(known["decode"], 1, random.Random(0))
    good = run(known["decode"], Refuser())
    with monkeypatch.context() as patch:
        patch.setattr("lumina_core.cli.main.is_out_of_memory", lambda _: False)
        patch.setattr("lumina_core.device.is_out_of_memory", lambda _: False)
        assert fault(attempt, good)
    monkeypatch.setattr("tests.fuzz.memory_failures.run", lambda *_: good)
    assert fault(attempt, good).startswith("fell back without a word")


@pytest.mark.skipif(sys.platform != "linux", reason="limits on memory are Linux's")
@pytest.mark.parametrize("mebibytes", [300, 560, 840])
@pytest.mark.parametrize("name", ["generate", "convert"])
def test_a_limit_that_pytorch_would_die_of_is_refused(name: str, mebibytes: int) -> None:
    """Without the check PyTorch's libraries abort at 300 MiB, OpenBLAS exits at 560, oneDNN crashes at 840."""
    ended = memory_limits.run(memory_limits.COMMANDS[name](Path()), limit=mebibytes * 2**20)
    assert not ended.fault(ended) and ended.code == 2 and "(ulimit -v)" in ended.said


@pytest.mark.skipif(sys.platform != "linux", reason="limits on memory are Linux's")
def test_a_limit_that_is_enough_changes_nothing() -> None:
    arguments = memory_limits.COMMANDS["generate"](Path())
    ended, good = (memory_limits.run(arguments, limit=limit) for limit in (3 * 2**30, None))
    assert (ended.code, ended.said, ended.files) == (0, "", good.files)
