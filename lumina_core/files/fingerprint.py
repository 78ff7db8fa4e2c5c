"""Fingerprints of files: of a small one by all of its bytes, of large ones by samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from ..errors import InputError

DIGITS = 16
# A change of a tenth of the weights is missed about once in a thousand (0.9^64); to read them takes milliseconds.
SAMPLES, SAMPLE_BYTES = 64, 4096


def file_hash(path: Path) -> str:
    """The first hexadecimal digits of the SHA-256 of a file. Raises InputError where it cannot be read."""
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                found.update(block)
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}; expected a file") from error
    return found.hexdigest()[:DIGITS]


def sampled_hash(paths: Iterable[Path], text: str = "") -> str:
    """The first digits of the SHA-256 of a text, and of the sizes and evenly spaced samples of files.

    Names and places of the files do not matter, their order does. Raises OSError.
    """
    found = hashlib.sha256(text.encode())
    for path in paths:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            found.update(size.to_bytes(8, "little"))
            for place in _places(size):
                file.seek(place)
                found.update(file.read(SAMPLE_BYTES))
    return found.hexdigest()[:DIGITS]


def _places(size: int) -> Iterable[int]:
    """Where the samples of a file of `size` bytes begin; all of a small one is read."""
    if size <= SAMPLES * SAMPLE_BYTES:
        return range(0, size, SAMPLE_BYTES)
    return (number * (size - SAMPLE_BYTES) // (SAMPLES - 1) for number in range(SAMPLES))
