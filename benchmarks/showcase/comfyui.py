"""A real ComfyUI with this pack, and its page in headless Chromium, as the tests in tests/comfyui use them."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lumina_core.errors import InputError

if TYPE_CHECKING:
    from browser import Tab

PACK = Path(__file__).parents[2]
HELPERS = PACK / "tests" / "comfyui"
PACKAGES = {"pytest": "pytest", "playwright": "playwright", "websocket": "websocket-client"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LORA = PACK / "lumina_core" / "demo" / "loras" / "silver.safetensors"


def use_helpers() -> None:
    """Makes the modules in tests/comfyui importable by their own names, as pytest does."""
    if str(HELPERS) not in sys.path:
        sys.path.append(str(HELPERS))


def find_all() -> tuple[Path, Path, Path]:
    """The folder of ComfyUI, its Python and Chromium. Raises InputError with what is missing."""
    missing = [name for module, name in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise InputError(f"packages are missing that the page needs; run: pip install {' '.join(missing)}")
    use_helpers()
    from comfy_server import find_comfyui

    found = find_comfyui()
    if isinstance(found, str):
        raise InputError(found)
    chromium = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if chromium is None:
        raise InputError(f"no browser: none of {', '.join(BROWSERS)} is installed")
    return *found, Path(chromium)


@contextlib.contextmanager
def page_of_comfyui(comfyui: Path, python: Path, chromium: Path) -> Iterator[Tab]:
    """The page, in the classic rendering of nodes, of a ComfyUI with folders of its own that are removed at the end."""
    use_helpers()
    from browser import CLASSIC, Browser
    from comfy_server import ComfyServer

    with tempfile.TemporaryDirectory() as folder, ComfyServer(comfyui, python, Path(folder)) as server:
        browser = Browser(server, chromium)
        try:
            yield browser.tab(CLASSIC)
        finally:
            browser.close()
