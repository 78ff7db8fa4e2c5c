"""Several processes, as torchrun starts them, draw one file of prompts: each its own lines, together what one draws."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lumina_core.cli import share
from lumina_core.cli.share import Share
from lumina_core.errors import InputError

from .cli_runs import CommandLine


def environment(rank: object, world_size: object, local_rank: object) -> dict[str, str]:
    return {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(local_rank)}


def test_the_pictures_of_three_processes_are_those_of_one(
    lumina: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a\nb\nc\nd\n")

    def draw(folder: Path) -> dict[str, bytes]:
        options = ("--prompts", file, "--width", 32, "--height", 32, "--out", folder)
        assert lumina.run("generate", "--checkpoint", lumina.checkpoint, "--device", "cpu", *options).code == 0
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    whole, counts = draw(lumina.path("one")), []
    for rank in (2, 0, 1):
        for name, value in environment(rank, 3, rank).items():
            monkeypatch.setenv(name, value)
        counts.append(len(draw(lumina.path("three"))))
    assert counts == [1, 3, 4] and draw(lumina.path("three")) == whole


def test_one_process_of_several_tells_of_broken_lines(
    lumina: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("{\n" + '{"prompt": "a"}\n' * 2)
    options = ("--prompts", file, "--skip-bad", "--width", 32, "--height", 32, "--out", lumina.path("pictures"))
    told = []
    for rank in (0, 1):
        for name, value in environment(rank, 2, rank).items():
            monkeypatch.setenv(name, value)
        outcome = lumina.run("generate", "--checkpoint", lumina.checkpoint, "--device", "cpu", *options)
        told.append(
            (outcome.code, outcome.err.count("is skipped"), f"process {rank} of 2: prompt 1 of 1" in outcome.err)
        )
    assert told == [(0, 1, True), (0, 0, True)]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            {"RANK": "0"},
            "the environment has RANK=0 and no WORLD_SIZE; expected all of RANK, WORLD_SIZE and LOCAL_RANK",
        ),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "no LOCAL_RANK"),
        (environment(2, 2, 0), "RANK='2'; expected a whole number from 0 to 1"),
        (environment(-1, 2, 0), "RANK='-1'"),
        (environment(0, 0, 0), "WORLD_SIZE='0'; expected a whole number from 1"),
        (environment("", 2, 0), "RANK=''"),
        (environment(0, "two", 0), "WORLD_SIZE='two'"),
        (environment(0, 2, "9" * 5000), "LOCAL_RANK='999"),
        (environment("٠", 2, 0), "RANK='٠'"),
    ],
)
def test_an_environment_that_makes_no_sense_is_named(found: dict[str, str], expected: str) -> None:
    with pytest.raises(InputError) as caught:
        Share.of_environment(found)
    assert expected in str(caught.value)


def test_without_torchrun_one_process_takes_all() -> None:
    assert all(Share.of_environment({}).takes(index) for index in range(5))


@pytest.mark.parametrize(
    ("name", "expected"), [("auto", "cuda:1"), ("cuda", "cuda:1"), ("cuda:0", "cuda:0"), ("cpu", "cpu")]
)
def test_each_process_takes_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch, name: str, expected: str) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(share, "choose_device", lambda name: torch.device("cuda" if name == "auto" else name))
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert Share(3, 4, 1).device(name) == torch.device(expected)
    assert chosen == ([torch.device("cuda:1")] if expected == "cuda:1" else [])


def test_more_processes_than_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(name: str) -> torch.device:
        if name == "cuda:1":
            raise InputError("the device is cuda:1 and PyTorch finds 1")
        return torch.device("cuda")

    monkeypatch.setattr(share, "choose_device", choose)
    with pytest.raises(InputError, match=r"LOCAL_RANK is 1: .* start no more processes on a machine than it has GPUs"):
        Share(1, 2, 1).device("auto")
