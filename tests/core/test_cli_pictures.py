"""Conditions on the command line: scaled with a warning and exit 0, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .cli_runs import CommandLine

RAMP = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)


def save(path: Path, values: np.ndarray) -> Path:
    Image.fromarray(values).save(path)
    return path


@pytest.fixture
def control(lumina: CommandLine) -> tuple[object, ...]:
    """Options for a picture under a map, but for the map."""
    return "--task", "control", "--map", "depth", "--height", 64, "--condition"


def test_maps_of_other_ranges_draw_what_eight_bits_draw(
    lumina: CommandLine, control: tuple[object, ...], tmp_path: Path
) -> None:
    levels = (RAMP * 255).round().astype(np.uint8)
    maps = {
        "8": save(tmp_path / "8.png", levels),
        "8 in 16": save(tmp_path / "8in16.png", levels.astype(np.uint16)),
        "float": save(tmp_path / "f.tif", RAMP),
    }
    said = {name: lumina.generate(*control, path, name=name) for name, path in maps.items()}
    assert [one.code for one in said.values()] == [0, 0, 0]
    assert lumina.tokens("8") == lumina.tokens("8 in 16") == lumina.tokens("float")
    assert "values from 0 to 255: read with 255 as white" in said["8 in 16"].err


def test_a_black_condition_is_drawn_and_said(lumina: CommandLine, control: tuple[object, ...], tmp_path: Path) -> None:
    outcome = lumina.generate(*control, save(tmp_path / "black.png", np.zeros((64, 64), dtype=np.uint8)))
    assert outcome.code == 0 and "WARNING: the condition is all black" in outcome.err


def test_a_depth_in_metres_is_refused(lumina: CommandLine, control: tuple[object, ...], tmp_path: Path) -> None:
    path = save(tmp_path / "metres.tif", RAMP * 80)
    lumina.refuses_to_generate(*control, path, expected="values from 0 to 80; expected 0 to 1")


def test_a_black_picture_is_encoded_and_said(lumina: CommandLine, tmp_path: Path) -> None:
    outcome = lumina.encode(save(tmp_path / "black.png", np.zeros((64, 64), dtype=np.uint8)), "t.json")
    assert outcome.code == 0 and "WARNING: the picture is all black" in outcome.err
