"""Notices that files were changed after they were opened."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError

Stamp = tuple[int, int, int] | None


@dataclass(frozen=True)
class FileStamps:
    """Size, time of change and inode of files at one moment; None for a file that is missing."""

    stamps: dict[Path, Stamp]

    @classmethod
    def of(cls, paths: Iterable[Path]) -> FileStamps:
        return cls({path: _stamp(path) for path in paths})

    def changed(self) -> list[Path]:
        """The files that are not what they were."""
        return [path for path, stamp in self.stamps.items() if _stamp(path) != stamp]

    def check(self) -> None:
        """Raises CheckpointError when a file is not what it was: its values are read from it as they are needed."""
        if changed := self.changed():
            raise CheckpointError(f"{changed[0]} was changed or removed after it was opened; load the checkpoint again")

    def __str__(self) -> str:
        """Differs when a file differs."""
        return ";".join(f"{path}:{stamp}" for path, stamp in self.stamps.items())


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino
