"""What a file is, by its first bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lumina_core.errors import InputError
from lumina_core.files.kind import look_at


def test_a_safetensors_file_whose_first_bytes_are_those_of_a_pickle(tmp_path: Path) -> None:
    """Its header's length, 0x0280 and the like, comes first."""
    path = tmp_path / "a.safetensors"
    tensors = {f"{k}": torch.zeros(1) for k in range(8)}
    for length in range(1024):
        save_file(tensors, path, metadata={"k": "x" * length})
        if path.read_bytes()[0] == 0x80 and path.read_bytes()[1] in (2, 3, 4, 5):
            assert look_at(path, InputError, "a file").name == "safetensors"
            return
    pytest.fail("no header had such a length")
