"""Models that lie in ComfyUI's models folder for a while."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from comfy_server import PACK, ComfyServer

from lumina_core.convert import plan_conversion

DEMO_FOLDER = PACK / "lumina_core" / "demo"
MOVQGAN = "movqgan.safetensors"


@contextmanager
def checkpoint(server: ComfyServer, place: str, *, with_movqgan: bool = True) -> Iterator[Path]:
    """The demo below the models folder: converted to int4 where `place` is a file, else its folder."""
    path = server.base / "models" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix:
        plan_conversion("demo", "int4").write(path)
    else:
        left_out = () if with_movqgan else (MOVQGAN,)
        shutil.copytree(DEMO_FOLDER, path, ignore=shutil.ignore_patterns("loras", *left_out))
    try:
        yield path
    finally:
        path.unlink() if path.is_file() else shutil.rmtree(path)


@contextmanager
def copied(server: ComfyServer, source: Path, place: str) -> Iterator[Path]:
    """A file below the models folder."""
    path = server.base / "models" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, path)
    try:
        yield path
    finally:
        path.unlink()
