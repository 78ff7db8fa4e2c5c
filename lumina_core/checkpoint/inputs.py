"""The files that a command reads, so that it writes none of them."""

from __future__ import annotations

from pathlib import Path

from .find import Checkpoint
from .locate import find_movqgan


def input_files(checkpoint: Checkpoint, movqgan: Path | None = None) -> list[Path]:
    """Weights, indices, config and tokenizer of a checkpoint, its MoVQGAN, and `movqgan`, a file or a folder of one."""
    indices = () if checkpoint.single else checkpoint.root.glob("*.index.json")
    codecs = (find_movqgan(path) if path.is_dir() else path for path in (checkpoint.movqgan, movqgan) if path)
    return [*checkpoint.files, *indices, *(path for path in codecs if path is not None)]
