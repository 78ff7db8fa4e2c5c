"""Output files: checked before the work, written all together or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import InputError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
LOSSY_QUALITY = 95


def check_outputs(paths: Sequence[Path]) -> None:
    """Raises InputError when a file cannot be written at one of the paths, or two of them are the same file."""
    named: dict[Path, Path] = {}
    for path in paths:
        check_output(path)
        other = named.setdefault(_target(path), path)
        if other is not path:
            raise InputError(f"{path} would be written twice; expected a name of its own for every output")


def check_output(path: Path) -> None:
    """Raises InputError when a file cannot be written there. Tries the folder, and leaves nothing in it."""
    target = _target(path)
    with _explained(path):
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


class OutputFiles:
    """Files that appear together: written beside their places within `with`, moved there when it ends well.

    When it ends by an exception nothing is left, and files that were there before are untouched. Raises InputError
    naming the file that cannot be written.
    """

    def __init__(self) -> None:
        self._waiting: dict[Path, str] = {}

    def __enter__(self) -> OutputFiles:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            if error is None:
                self._move()
        finally:
            for name in self._waiting.values():
                os.unlink(name)

    def write_picture(self, image: Image.Image, path: Path) -> None:
        """Writes a picture in the format of the path's suffix."""
        picture_format = Image.registered_extensions()[path.suffix.lower()]
        self._write(path, lambda file: image.save(file, format=picture_format, quality=LOSSY_QUALITY))

    def write_json(self, values: Any, path: Path) -> None:
        """Writes values as JSON."""
        self._write(path, lambda file: file.write(json.dumps(values).encode() + b"\n"))

    def _write(self, path: Path, write: Callable[[Any], Any]) -> None:
        target = _target(path)
        with _explained(path):
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=".lumina-")
            self._waiting[target] = name
            with os.fdopen(handle, "wb") as file:
                write(file)
            os.chmod(name, 0o666 & ~_umask())

    def _move(self) -> None:
        for target, name in list(self._waiting.items()):
            with _explained(target):
                os.replace(name, target)
            del self._waiting[target]


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns the system's errors into one that names the file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def _target(path: Path) -> Path:
    """The file that a path leads to, through links."""
    return Path(os.path.realpath(path))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
