"""Finds a snapshot in the local cache of Hugging Face's tools. Nothing is downloaded."""

from __future__ import annotations

import os
import re
from pathlib import Path

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def cached_repository(name: str) -> Path | None:
    """The snapshot of a repository id such as owner/name in the local cache; None where there is none."""
    if not REPOSITORY.fullmatch(name):
        return None
    try:
        return snapshot(_cache_folder() / f"models--{name.replace('/', '--')}")
    except RuntimeError:  # a user without a home folder
        return None


def snapshot(folder: Path) -> Path | None:
    """The snapshot in a repository's folder of the cache, or in the cache of one repository; None in any other folder.

    It is the one that `refs/main` names, else the one changed last.
    """
    snapshots = folder / "snapshots"
    if not snapshots.is_dir():
        inner = [found for one in sorted(folder.glob("models--*")) if (found := snapshot(one)) is not None]
        return inner[0] if len(inner) == 1 else None
    main = folder / "refs" / "main"
    if main.is_file():
        named = snapshots / main.read_text(encoding="utf-8", errors="replace").strip()[:100]
        if named.parent == snapshots and named.is_dir():
            return named
    all_of_them = [one for one in snapshots.iterdir() if one.is_dir()]
    return max(all_of_them, key=lambda one: one.stat().st_mtime) if all_of_them else None


def _cache_folder() -> Path:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if folder := os.environ.get(name):
            return Path(folder).expanduser()
    home = os.environ.get("HF_HOME")
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return (Path(home).expanduser() if home else cache / "huggingface") / "hub"
