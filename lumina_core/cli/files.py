"""Output files: checked before the work, written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import InputError


def check_output(path: Path) -> None:
    """Raises InputError when a file cannot be written there."""
    folder = path.absolute().parent
    if path.is_dir() or not path.name:
        raise InputError(f"cannot write {path}: it is a folder; expected the name of a file")
    if not folder.is_dir():
        raise InputError(f"cannot write {path}: the folder {folder} does not exist; make it first")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose another folder") from error


def check_picture_output(path: Path) -> None:
    """As `check_output`, and the suffix must be one that Pillow writes."""
    if path.suffix.lower() not in _writable_suffixes():
        raise InputError(f"cannot write {path}: the suffix {path.suffix!r} is no picture's; expected .png")
    check_output(path)


def numbered(path: Path, count: int) -> list[Path]:
    """`path` itself for one picture, else with `_k` before its suffix."""
    return [path] if count == 1 else [path.with_stem(f"{path.stem}_{k}") for k in range(count)]


def write_picture(image: Image.Image, path: Path) -> None:
    """Writes a picture in the format of the path's suffix."""
    picture_format = Image.registered_extensions()[path.suffix.lower()]
    _write_whole(path, lambda file: image.save(file, format=picture_format))


def write_json(values: Any, path: Path) -> None:
    """Writes values as JSON."""
    _write_whole(path, lambda file: file.write(json.dumps(values).encode() + b"\n"))


def _write_whole(path: Path, write: Callable[[Any], Any]) -> None:
    handle, name = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _writable_suffixes() -> set[str]:
    return {suffix for suffix, name in Image.registered_extensions().items() if name in Image.SAVE}
