"""Output files, checked before the work."""

from __future__ import annotations

import contextlib
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..checkpoint.output_files import explained, target_of
from ..errors import InputError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def check_outputs(paths: Sequence[Path]) -> None:
    """Raises InputError when a file cannot be written at one of the paths, or two of them are the same file."""
    named: dict[Path, Path] = {}
    for path in paths:
        check_output(path)
        other = named.setdefault(target_of(path), path)
        if other is not path:
            raise InputError(f"{path} would be written twice; expected a name of its own for every output")


def check_output(path: Path) -> None:
    """Raises InputError when a file cannot be written there. Tries the folder, and leaves nothing in it."""
    target = target_of(path)
    with explained(path):
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(target.stat().st_mode):
                raise InputError(f"cannot write {path}: it is a folder or a device; expected the name of a file")
        if not target.parent.is_dir():
            raise InputError(f"cannot write {path}: the folder {target.parent} does not exist; make it first")
        with tempfile.TemporaryFile(dir=target.parent):
            pass


def check_picture_suffix(path: Path) -> None:
    """Raises InputError when a path's suffix names no format that holds our pictures as they are."""
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise InputError(
            f"cannot write {path}: the suffix {path.suffix!r} is no picture's; expected {', '.join(PICTURE_SUFFIXES)}"
        )


def numbered(path: Path, count: int) -> list[Path]:
    """`path` itself for one picture, else with `_k` before its suffix."""
    return [path] if count == 1 else [path.with_stem(f"{path.stem}_{k}") for k in range(count)]
