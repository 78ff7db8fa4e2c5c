"""Files that are written all together or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import InputError

LOSSY_QUALITY = 95


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
                with contextlib.suppress(OSError):  # it must not hide the error that led here
                    os.unlink(name)

    def write_picture(self, image: Image.Image, path: Path) -> None:
        """Writes a picture in the format of the path's suffix."""
        picture_format = Image.registered_extensions()[path.suffix.lower()]
        self.write(path, lambda file: image.save(file, format=picture_format, quality=LOSSY_QUALITY))

    def write_json(self, values: Any, path: Path) -> None:
        """Writes values as JSON."""
        self.write(path, lambda file: file.write(json.dumps(values).encode() + b"\n"))

    def write(self, path: Path, write: Callable[[Any], Any]) -> None:
        """Writes what `write(binary file)` does."""
        target = target_of(path)
        with explained(path):
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=".lumina-")
            self._waiting[target] = name
            with os.fdopen(handle, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())  # a name must not outlive a power cut that its bytes do not
            os.chmod(name, 0o666 & ~_umask())

    def _move(self) -> None:
        for target, name in list(self._waiting.items()):
            with explained(target):
                os.replace(name, target)
            del self._waiting[target]


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the system's errors into one that names the file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def target_of(path: Path) -> Path:
    """The file that a path leads to, through links."""
    return Path(os.path.realpath(path))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
