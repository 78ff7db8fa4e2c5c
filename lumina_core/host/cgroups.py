"""Limits on the memory of the container or control group that this process is in; Linux only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .limits import PROC, Limit
from .refusals import is_out_of_memory

# cgroup v1 says "no limit" by the largest number of whole pages.
UNLIMITED = 2**62


@dataclass(frozen=True)
class _Version:
    """How a version of cgroups names its files: limits, bytes in use, and what of them the kernel can free at once."""

    limits: tuple[str, ...]
    used: str
    reclaimable: str


_V1 = _Version(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Version(("memory.max", "memory.high"), "memory.current", "inactive_file")


@dataclass(frozen=True)
class _Mount:
    """A mounted hierarchy of groups: the group that `point` shows is `root` in /proc/self/cgroup."""

    version: _Version
    root: str
    point: Path


def cgroup_limits(proc: Path = PROC) -> Iterator[Limit]:
    """The limit of this process's group and of every group above it, as far as this process sees them.

    The page cache that the kernel can free at once is not counted as used.
    """
    mounts = list(_mounts(proc))
    for line in _lines(proc / "self/cgroup"):
        number, controllers, path = line.split(":", 2)
        version = _V2 if (number, controllers) == ("0", "") else _V1 if "memory" in controllers.split(",") else None
        for mount in mounts:
            if mount.version is version:
                for folder in _levels(mount, path):
                    yield from _limits(folder, version)


def _mounts(proc: Path) -> Iterator[_Mount]:
    for line in _lines(proc / "self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(), (after.split() + ["", "", ""])[:3]
        version = _V2 if kind == "cgroup2" else _V1 if kind == "cgroup" and "memory" in options.split(",") else None
        if version is not None and len(fields) > 4:
            yield _Mount(version, _unescaped(fields[3]), Path(_unescaped(fields[4])))


def _levels(mount: _Mount, path: str) -> Iterator[Path]:
    """The folders of a group and of those above it, up to the one that is mounted.

    A container that does not see its own path in the hierarchy sees its group as the mounted one.
    """
    inside = Path(path)
    below = inside.relative_to(mount.root) if inside.is_relative_to(mount.root) and ".." not in inside.parts else Path()
    yield from (mount.point / part for part in (below, *below.parents))


def _limits(folder: Path, version: _Version) -> Iterator[Limit]:
    used = max(0, _number(folder / version.used) - _reclaimable(folder, version))
    for name in version.limits:
        most = _number(folder / name)
        if 0 < most < UNLIMITED:
            yield Limit(f"memory ({folder / name})", most, used)


def _reclaimable(folder: Path, version: _Version) -> int:
    lines = (line.split() for line in _lines(folder / "memory.stat"))
    return next((int(fields[1]) for fields in lines if fields[0] == version.reclaimable), 0)


def _number(path: Path) -> int:
    """The number that a file holds; 0 where it is absent or says "max"."""
    text = next(iter(_lines(path)), "")
    return int(text) if text.isdecimal() else 0


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        if is_out_of_memory(error):
            raise
        return []


def _unescaped(text: str) -> str:
    """A path of /proc/self/mountinfo, where a blank is written as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
