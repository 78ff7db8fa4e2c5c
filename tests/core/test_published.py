"""The benchmark beside the published program, without that program: tables, checks and errors in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import published
from benchmarks.published_program import Drawing, ForcedHeader, OnCpu, Picture

SIZE, CODES = (96, 96), 144
PICTURES = [[Picture("a", (1, 2), SIZE, seed)] for seed in range(3)]


def program(seconds: float, complete: bool = True) -> Callable[[Picture], Drawing]:
    return lambda picture: Drawing(seconds * (1 + picture.seed), 20, CODES, complete)


def test_ratios_are_taken_within_a_round() -> None:
    drawings = published.measure({"published-ar": program(1.0), "ar": program(0.25)}, PICTURES)
    assert [len(of_round) for rounds in drawings.values() for of_round in rounds] == [1] * 6
    assert published.check(drawings) == "Every program drew complete pictures, 432 tokens over all rounds."
    last = published.table(drawings).splitlines()[-1]
    assert last == "| ours, `ar` | 0.5 (0.25 to 0.75) | 3.47 (1.74 to 5.21) | 20 | 4 (4 to 4) |"


def test_incomplete_pictures_are_told() -> None:
    drawings = published.measure({"published-ar": program(1.0, complete=False), "ar": program(1.0)}, PICTURES)
    told = published.check(drawings)
    assert told == "NOT ALIKE: 3 of 3 pictures of published, one at a time are not complete."


def test_ours_draws_a_complete_picture() -> None:
    with published.checkpoint_folder("demo") as folder:
        encode, ours = published.load_ours(folder)
        drawing = ours("gumbel")(Picture("a star", encode("a star", SIZE), SIZE, 0))
    assert drawing.complete and drawing.codes == CODES and drawing.seconds > 0


def test_the_header_is_forced_after_the_prompt_only() -> None:
    force, scores = ForcedHeader([5, 6, 7], 2), torch.randn(1, 4, 9)
    forced = [force(torch.zeros(1, length), scores) for length in range(2, 6)]
    assert [one.argmax(-1).unique().tolist() for one in forced[:3]] == [[5], [6], [7]]
    assert forced[3] is scores


def test_cuda_is_the_cpu() -> None:
    with OnCpu():
        assert torch.tensor([1], device="cuda").device.type == torch.arange(3, device="cuda").device.type == "cpu"


@pytest.mark.parametrize("size", ["64", "64x", "ax64", "64x65", "0x64"])
def test_bad_sizes_are_refused(size: str) -> None:
    with pytest.raises(SystemExit):
        published.parse_arguments(["--clone", ".", "--sizes", size])


def test_a_folder_that_is_no_clone_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["published", "--clone", str(tmp_path)])
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    assert published.main() == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "expected --clone to name a clone" in told
