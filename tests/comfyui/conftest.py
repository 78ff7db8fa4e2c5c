"""One ComfyUI server for all tests in this folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from comfy_server import ComfyServer


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A running server with this pack as its only custom node."""
    from comfy_server import ComfyServer, find_comfyui

    found = find_comfyui()
    if isinstance(found, str):
        pytest.skip(found)
    folder, python = found
    with ComfyServer(folder, python, tmp_path_factory.mktemp("comfyui")) as running:
        yield running


@pytest.fixture(scope="session")
def chromium_path() -> Path:
    """A Chromium for playwright."""
    pytest.importorskip("playwright.sync_api", reason="the browser tests need the package playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is installed")
    return Path(path)
