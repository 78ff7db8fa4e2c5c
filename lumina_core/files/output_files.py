"""Output files: paths checked before the work, files written all together or not at all."""

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

LOSSY_QUALITY = 95
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


class OutputFiles:
    """Context manager that writes temporary files and moves all of them into place when the block succeeds.

    After an exception no temporary file remains, and existing files are unchanged. Raises InputError with the name of
    a file that cannot be written.
    """

    def __init__(self) -> None:
        self._temporary: dict[Path, str] = {}

    def __enter__(self) -> OutputFiles:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            if error is None:
                self._move()
        finally:
            for name in self._temporary.values():
                with contextlib.suppress(OSError):  # must not hide the original error
                    os.unlink(name)

    def write_picture(self, image: Image.Image, path: Path) -> None:
        """Writes a picture in the format of the path's suffix."""
        picture_format = Image.registered_extensions()[path.suffix.lower()]
        self.write(path, lambda file: image.save(file, format=picture_format, quality=LOSSY_QUALITY))

    def write_json(self, values: Any, path: Path) -> None:
        self.write(path, lambda file: file.write(json.dumps(values).encode() + b"\n"))

    def write(self, path: Path, write: Callable[[Any], Any]) -> None:
        """Calls `write` with a binary file, whose content goes to `path`."""
        target = real_path(path)
        with explain_write_errors(path):
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=".lumina-")
            self._temporary[target] = name
            with os.fdopen(handle, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())  # after a power cut the file must not exist without its content
            os.chmod(name, 0o666 & ~_umask())

    def _move(self) -> None:
        for target, name in list(self._temporary.items()):
            with explain_write_errors(target):
                os.replace(name, target)
            del self._temporary[target]


@contextlib.contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Converts OSError into InputError with the path."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def real_path(path: Path) -> Path:
    """The absolute path with all symbolic links resolved."""
    return Path(os.path.realpath(path))


def check_outputs(paths: Sequence[Path]) -> None:
    """Raises InputError when a path cannot be written, or when two paths are the same file."""
    named: dict[Path, Path] = {}
    for path in paths:
        check_output(path)
        other = named.setdefault(real_path(path), path)
        if other is not path:
            raise InputError(f"{path} would be written twice; expected a different name for each output")


def check_output(path: Path) -> None:
    """Raises InputError when a path cannot be written. Tests its folder with a temporary file."""
    target = real_path(path)
    with explain_write_errors(path):
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(target.stat().st_mode):
                raise InputError(f"cannot write {path}: it is a folder or a device; expected the name of a file")
        if not target.parent.is_dir():
            raise InputError(f"cannot write {path}: the folder {target.parent} does not exist; create it first")
        with tempfile.TemporaryFile(dir=target.parent):
            pass


def check_picture_suffix(path: Path) -> None:
    """Raises InputError when the suffix of a path is not one of PICTURE_SUFFIXES."""
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        expected = ", ".join(PICTURE_SUFFIXES)
        raise InputError(f"cannot write {path}: the suffix is {path.suffix!r}; expected one of {expected}")


def numbered_paths(path: Path, count: int) -> list[Path]:
    """`path` itself for one picture, else `count` paths with `_k` before the suffix."""
    return [path] if count == 1 else [path.with_stem(f"{path.stem}_{k}") for k in range(count)]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
