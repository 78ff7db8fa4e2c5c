"""Output files: paths checked before the work, files written all together or not at all."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..errors import InputError
from .json_text import dump_json
from .temporary import Draft, remove_stale

LOSSY_QUALITY = 95
# Links to what a process has open: a file behind one, as of a redirected output, would be replaced.
_STREAMS = ("/dev/std", "/dev/fd/", "/proc/")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


class OutputFiles:
    """Context manager that writes files and moves all of them into place when the block succeeds.

    After an exception nothing is left, and existing files are unchanged; nor is anything left by a process that is
    killed, but for a temporary file where the system has no files without a name (see Draft). An interrupt during the
    moves is raised after them. Raises InputError with the name of a file that cannot be written, and without
    `overwrite` with that of one that is there.
    """

    def __init__(self, overwrite: bool = True) -> None:
        self._drafts: dict[Path, Draft] = {}
        self._overwrite = overwrite

    def __enter__(self) -> OutputFiles:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            if error is None:
                self._move()
        finally:
            for draft in self._drafts.values():
                draft.discard()

    def write_picture(self, image: Image.Image, path: Path, texts: PngInfo | None = None) -> None:
        """Writes a picture in the format of the path's suffix. Of the formats, PNG alone carries `texts`."""
        picture_format = Image.registered_extensions()[path.suffix.lower()]
        content = io.BytesIO()  # a full disk under Pillow's own writing is "encoder error -2"
        image.save(content, format=picture_format, quality=LOSSY_QUALITY, pnginfo=texts)
        self.write(path, lambda file: file.write(content.getbuffer()))

    def write_json(self, values: Any, path: Path) -> None:
        """Writes values as JSON; numbers that are not finite become null."""
        self.write(path, lambda file: file.write(json_bytes(values)))

    def write(self, path: Path, write: Callable[[BinaryIO], Any]) -> None:
        """Calls `write` with a binary file, whose content goes to `path`."""
        target = real_path(path)
        if all(other.folder != target.parent for other in self._drafts.values()):
            remove_stale(target.parent)
        self._drafts[target] = draft = Draft(target.parent)
        _fill(draft, path, write)

    def _move(self) -> None:
        """Moves every file. What interrupts is raised when all are in place: half of them would be worse than all."""
        interrupt: BaseException | None = None
        for target, draft in self._drafts.items():
            move = draft.replace if self._overwrite else draft.create
            with explain_write_errors(target):
                interrupt = _uninterrupted(functools.partial(move, target)) or interrupt
            if not (self._overwrite or draft.is_at(target)):
                raise InputError(f"cannot write {target}: another program has written a file of this name meanwhile")
        if interrupt is not None:
            raise interrupt


def write_new(paths: Iterable[Path], write: Callable[[BinaryIO], Any]) -> Path:
    """Writes a file and returns its path: the first of `paths` where no file is when the content is complete.

    Never overwrites, also where two processes write to the same name. `paths` are in one folder; each is tried once.
    Raises InputError when the file cannot be written or no name is free; then nothing is left.
    """
    names = iter(paths)
    first = next(names)
    folder = real_path(first).parent
    remove_stale(folder)
    draft = Draft(folder)
    try:
        _fill(draft, first, write)
        for path in itertools.chain([first], names):
            with explain_write_errors(path):
                interrupt = _uninterrupted(functools.partial(draft.create, path))
            if interrupt is not None:
                raise interrupt
            if draft.is_at(path):
                return path
    finally:
        draft.discard()
    raise InputError(f"cannot write {first}: every name of this kind is taken")


def json_bytes(values: Any) -> bytes:
    """The content of a JSON file, as all are written here."""
    return dump_json(values).encode() + b"\n"


def _fill(draft: Draft, path: Path, write: Callable[[BinaryIO], Any]) -> None:
    with explain_write_errors(path):
        write(draft.open())
        draft.finish()


def _uninterrupted(step: Callable[[], object]) -> BaseException | None:
    """Runs a step that may be run again, a second time where an interrupt came; returns the interrupt."""
    try:
        step()
    except Exception:
        raise
    except BaseException as interrupt:
        step()
        return interrupt
    return None


@contextlib.contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Converts OSError into InputError with the path."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def real_path(path: Path) -> Path:
    """The absolute path with all symbolic links resolved. Raises InputError for what no path is."""
    try:
        return Path(os.path.realpath(path))
    except ValueError as error:  # a null character, or one that the file system cannot encode
        raise InputError(f"{str(path)!r} is no path ({error}); expected the name of a file") from error


def check_outputs(paths: Sequence[Path]) -> None:
    """Raises InputError when a path cannot be written, or when two paths are the same file."""
    named: dict[Path, Path] = {}
    for path in paths:
        check_output(path)
        other = named.setdefault(real_path(path), path)
        if other is not path:
            raise InputError(f"{path} would be written twice; expected a different name for each output")


def check_not_inputs(outputs: Iterable[Path | None], inputs: Iterable[Path | None]) -> None:
    """Raises InputError when an output is one of the inputs, under this name, by a symbolic link or by a hard link."""
    files = {one for path in inputs if path is not None for one in _identities(path)}
    for path in outputs:
        if path is not None and not files.isdisjoint(_identities(path)):
            raise InputError(f"cannot write {path}: it is one of the inputs; expected another name")


def check_output(path: Path) -> None:
    """Raises InputError when a path cannot be written. Tests its folder with a temporary file."""
    target = real_path(path)
    if os.path.abspath(path).startswith(_STREAMS):
        raise InputError(f"cannot write {path}: it is a stream of a process; expected the name of a file")
    with explain_write_errors(path):
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(target.stat().st_mode):
                raise InputError(f"cannot write {path}: it is a folder or a device; expected the name of a file")
        if not target.parent.is_dir():
            raise InputError(f"cannot write {path}: the folder {target.parent} does not exist; create it first")
        with tempfile.TemporaryFile(dir=target.parent):
            pass


def _identities(path: Path) -> set[object]:
    """What the names of one file have in common: the resolved path; volume and inode where there is a file."""
    found: set[object] = {real_path(path)}
    with contextlib.suppress(OSError):
        facts = os.stat(path)
        found |= {(facts.st_dev, facts.st_ino)} if facts.st_ino else set()
    return found


def check_picture_suffix(path: Path) -> None:
    """Raises InputError when the suffix of a path is not one of PICTURE_SUFFIXES."""
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        expected = ", ".join(PICTURE_SUFFIXES)
        raise InputError(f"cannot write {path}: the suffix is {path.suffix!r}; expected one of {expected}")


def numbered_paths(path: Path, count: int) -> list[Path]:
    """`path` itself for one picture, else `count` paths with `_k` before the suffix."""
    return [path] if count == 1 else [path.with_stem(f"{path.stem}_{k}") for k in range(count)]
