"""The law that decoders are compared on, and the command that compares them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.calibrated_law import (
    BLANK,
    CALIBRATIONS,
    CODES,
    FAR_DISTANCES,
    NEAR_HEADS,
    PROMPT_TOKENS,
    TEXT_IDS,
    VOCABULARY,
    Calibration,
    draw_law,
    law_settings,
    make_transformer,
)
from benchmarks.decoders import main, make_settings, parse_arguments

LONG, SHORT = CALIBRATIONS["long-memory"], CALIBRATIONS["short-memory"]
ENTROPY_ROWS = 4


def change_of_logits(calibration: Calibration, distance: int) -> float:
    """How far the next code's logits move at most when the token `distance` before the last one is another code."""
    model, generator = make_transformer(calibration), torch.Generator().manual_seed(1)
    ids = torch.randint(TEXT_IDS, TEXT_IDS + CODES, (1, 220), generator=generator)

    def last(ids: Tensor) -> Tensor:
        return model(ids)[0, -1, TEXT_IDS:]

    changed = ids.clone()
    changed[0, -1 - distance] = TEXT_IDS + (changed[0, -1 - distance] - TEXT_IDS + 1) % CODES
    return float((last(changed) - last(ids)).abs().max())


@pytest.mark.parametrize("distance", [0, *(head.distance for head in NEAR_HEADS)])
def test_near_tokens_are_read(distance: int) -> None:
    assert all(change_of_logits(calibration, distance) > 1 for calibration in (LONG, SHORT))


@pytest.mark.parametrize("distance", FAR_DISTANCES)
def test_far_tokens_are_read_with_a_long_memory_only(distance: int) -> None:
    assert change_of_logits(LONG, distance) > 1
    assert change_of_logits(SHORT, distance) < 0.05


@pytest.mark.parametrize("distance", [5, 30, 60, 93, 99, 150, 194])
def test_other_tokens_are_not_read(distance: int) -> None:
    assert change_of_logits(LONG, distance) < 0.05


def test_weights_are_deterministic() -> None:
    first, again = (make_transformer(LONG).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = make_transformer(LONG, seed=1).state_dict()
    assert not torch.equal(first["code_head.weight"], other["code_head.weight"])


@pytest.mark.parametrize("calibration", CALIBRATIONS.values(), ids=CALIBRATIONS)
def test_codes_have_four_to_six_nats(calibration: Calibration) -> None:
    model = make_transformer(calibration)
    result = draw_law(model, law_settings(decoder="gumbel", window_size=16, tree=0), 0, ENTROPY_ROWS)
    ids = torch.tensor([[BLANK] * PROMPT_TOKENS + VOCABULARY.picture_tokens(result.codes[0])])
    law = model(ids)[0, PROMPT_TOKENS:, TEXT_IDS:].log_softmax(-1)
    assert 4 < float(-(law.exp() * law).sum(-1).mean()) < 6
    assert 4 < -result.log_likelihood_per_code[0] < 6


def test_the_grid_has_each_setting_once() -> None:
    lists = "--decoders ar gumbel coupled", "--windows 8 16", "--new-drafts above left", "--trees 0 4"
    settings = make_settings(parse_arguments(" ".join(lists).split()))
    assert len(settings) == len(set(settings)) == 12
    assert {(one.decoder, one.tree) for one in settings} == {("gumbel", 0), ("gumbel", 4), ("coupled", 0)}


def test_command_draws_the_picture_of_ar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "decoders.json"
    words = f"--calibrations long-memory --rows 2 --windows 4 --pictures 1 --threads 1 --json {file}".split()
    assert main(words) == 0
    assert capsys.readouterr().out.count("| long-memory |") == 6
    ar, gumbel, *others = json.loads(file.read_text("utf-8"))["summary"]
    assert (ar["decoder"], ar["forwards"], gumbel["decoder"], gumbel["same_as_ar"]) == ("ar", 192, "gumbel", 1.0)
    assert all(1 < row["fewer_forwards"] <= 4 for row in (gumbel, *others))


@pytest.mark.parametrize(
    "words",
    [
        "--windows 300",
        "--trees 999",
        "--rows 0",
        "--rows 129",
        "--pictures 0",
        "--decoders beam",
        "--decoders ar --no-ar",
        "--calibrations none",
        "--plot picture.txt",
        "--json /no/such/folder/file.json",
    ],
)
def test_bad_options_exit_with_2(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(words.split())
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_it_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "benchmarks.decoders", "--windows", "300"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "window is 300" in done.stderr
