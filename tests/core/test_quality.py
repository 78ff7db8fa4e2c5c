"""The quality benchmark: its scorer is right on truth, and it says and writes what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import quality, sources
from benchmarks.verdicts import judged_sheet
from lumina_core.movqgan.load import load_movqgan
from lumina_core.pictures.contact_sheet import FRAME_COLOUR
from training.world import CANVAS, CATEGORIES, fresh_samples, render

from .checkpoints import CODES


def picture(value: int) -> np.ndarray:
    return np.full((CANVAS, CANVAS, 3), value, np.uint8)


def test_truth_is_right_in_every_category(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The scorer itself: 50 rendered prompts a category, none of which training has seen."""
    report = tmp_path / "scores.json"
    assert quality.main(["--truth", "--json", str(report)]) == 0
    written = json.loads(report.read_text())
    assert [score["category"] for score in written["scores"]] == list(CATEGORIES)
    assert all(score["prompts"] == 50 for score in written["scores"])
    assert all(score["right"] >= 0.99 for score in written["scores"])
    assert written["pictures"] == "truth" and written["mean"] >= 0.99
    assert written["settings"]["seed"] == 0 and "json" not in written["settings"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["category", *CATEGORIES, "mean"]
    assert "below the goal" not in "".join(lines)


def test_wrong_pictures_score_low() -> None:
    """Every scene is judged by the caption of the one before it."""
    for category in CATEGORIES:
        samples = fresh_samples(category, 20, seed=1)
        pictures = [render(item.scene) for item in samples]
        judged = quality.judge_pictures(samples, pictures[-1:] + pictures[:-1])
        assert sum(item.right for item in judged) <= 8, category


def test_empty_pictures_score_nothing() -> None:
    for category in CATEGORIES:
        samples = fresh_samples(category, 5, seed=1)
        assert not any(item.right for item in quality.judge_pictures(samples, [picture(255)] * 5)), category


def test_prompts_are_judged_in_batches(capsys: pytest.CaptureFixture[str]) -> None:
    options = quality.parse_arguments(["--batch", "4", "--prompts-per-category", "6", "--seed", "7"])
    calls = []

    def source(samples, seed):
        calls.append((len(samples), seed))
        return [render(item.scene) for item in samples]

    score, judged = quality.score_category("position", 0.8, options, source)
    assert calls == [(4, 7), (2, 11)]
    assert (score.prompts, score.right, score.goal, len(judged)) == (6, 1.0, 0.8, 6)


def test_table_tells_what_is_below_its_goal() -> None:
    scores = [
        quality.Score("colours", 10, right=0.9, strict=0.5, goal=0.95, seconds=1.0),
        quality.Score("counting", 30, right=0.8, strict=0.7, goal=0.8, seconds=2.0),
    ]
    _, below, reached, mean = quality.table(scores).splitlines()
    assert below.split()[:6] == ["colours", "10", "90.0%", "50.0%", "95%", "1.0"] and below.endswith("below the goal")
    assert reached.split() == ["counting", "30", "80.0%", "70.0%", "80%", "2.0"]
    assert mean.split() == ["mean", "40", "85.0%", "60.0%"]


@pytest.mark.parametrize("count", [1, 8, 9])
def test_contact_sheet_holds_every_picture_and_frames_the_right_ones(count: int) -> None:
    judged = [
        quality.Judged("a red circle " * 9, picture(7 * k + 80), right=k != 0, strict=False) for k in range(count)
    ]
    sheet = np.asarray(judged_sheet(judged))
    for k in range(count):
        rows, columns = np.nonzero((sheet == 7 * k + 80).all(-1))
        assert len(np.unique(rows)) >= CANVAS and (rows.max() - rows.min()) == (columns.max() - columns.min())
        assert (tuple(sheet[rows.min() - 1, columns.min()]) == FRAME_COLOUR) == (k != 0)


def test_sheet_is_written(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    assert quality.main(["--truth", "--prompts-per-category", "2", "--sheet", str(sheet)]) == 0
    with Image.open(sheet) as image:
        assert image.width > 256 and image.height > 256


def test_pictures_come_through_movqgan(checkpoint: Path) -> None:
    samples = fresh_samples("colours", 2, seed=0)
    found = sources.reconstructed(str(checkpoint), None, torch.device("cpu"))(samples, 0)
    movqgan = load_movqgan(checkpoint / "movqgan.safetensors")
    pixels = torch.from_numpy(np.stack(sources.rendered(samples, 0))).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        expected = (movqgan.decode(movqgan.encode(pixels)).permute(0, 2, 3, 1) + 1) * 127.5
    for k in range(2):
        assert found[k].dtype == np.uint8 and found[k].shape == (CANVAS, CANVAS, 3)
        assert abs(found[k] - expected[k].clamp(0, 255).numpy()).max() <= 0.6


def test_pictures_come_from_the_model(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "scores.json"
    arguments = ["--checkpoint", str(checkpoint), "--prompts-per-category", "1", "--json", str(report), "--cfg", "2"]
    assert quality.main([*arguments, "--decoder", "coupled", "--window", "9"]) == 0
    written = json.loads(report.read_text())
    assert written["pictures"] == "generate" and written["settings"]["decoder"] == "coupled"
    assert {score["category"]: score["goal"] for score in written["scores"]} == quality.GOALS["generate"]
    assert capsys.readouterr().err.count("\n") == len(CATEGORIES)


def test_picture_k_has_its_own_seed(checkpoint: Path) -> None:
    draw = sources.generated(str(checkpoint), None, torch.device("cpu"), quality.DecodeSettings(top_k=CODES))
    samples = fresh_samples("colours", 2, seed=0)
    both, second = draw(samples, 4), draw(samples[1:], 5)
    different, same = (abs(both[k].astype(int) - second[0]).max() for k in range(2))
    assert same <= 1 < 50 < different


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--checkpoint", "absent"], "checkpoint absent does not exist"),
        (["--reconstruct", "--checkpoint", "absent"], "checkpoint absent does not exist"),
        (["--reconstruct", "--movqgan", "absent.ckpt"], "absent.ckpt is missing"),
        (["--truth", "--json", "absent/scores.json"], "create it first"),
        (["--truth", "--sheet", "absent/sheet.png"], "create it first"),
        (["--truth", "--sheet", "sheet.txt"], "the suffix is '.txt'"),
        (["--truth", "--json", "."], "it is a folder"),
        (["--truth", "--sheet", "a.png", "--json", "a.png"], "would be written twice"),
        (["--window", "0"], "window is 0"),
        (["--cfg", "nan"], "cfg is nan"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert quality.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("quality: ") and said.err.count("\n") == 1
    assert expected in said.err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--truth", "--reconstruct"],
        ["--prompts-per-category", "0"],
        ["--batch", "none"],
        ["--seed", "-1"],
        ["--decoder", "magic"],
        ["--device", "abacus"],
    ],
)
def test_bad_options(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        quality.main(arguments)
    assert caught.value.code == 2 and arguments[-2] in capsys.readouterr().err
