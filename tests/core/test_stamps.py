"""A checkpoint whose file was changed after it was loaded is not drawn with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lumina_core.errors import CheckpointError
from lumina_core.pipeline import Lumina

from .checkpoints import SHARDS


def touch(file: Path) -> None:
    os.utime(file, ns=(0, 0))


def replace(file: Path) -> None:
    shutil.copy2(file, file.with_suffix(".new"))
    file.with_suffix(".new").replace(file)


def append(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b"0")


@pytest.mark.parametrize("change", [touch, replace, append, Path.unlink])
def test_a_changed_file_is_noticed_at_the_next_run(
    checkpoint: Path, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "copied"))
    lumina = Lumina.load(folder, device="cpu")
    lumina.draw("a red square", 32, 32)
    change(folder / SHARDS[1])
    with pytest.raises(CheckpointError, match=f"{SHARDS[1]} was changed or removed"):
        lumina.draw("a red square", 32, 32)
