"""What the pack needs: a ComfyUI, a PyTorch and packages, each new enough. Imports nothing that may be missing."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

from ..lumina_core.cli.packages import PACKAGES as NEEDED
from ..lumina_core.cli.packages import version_numbers

NAME = "Lumina-mGPT 2.0"
COMFYUI = (0, 16)
# The first ComfyUI that calls `comfy_entrypoint`; an older one looks for node mappings only.
FIRST_WITH_ENTRYPOINT = (0, 3, 48)
TORCH = NEEDED["torch"][1]
# By the name to import; the same list as in requirements.txt.
PACKAGES = {module: name for module, (name, _) in NEEDED.items() if module != "torch"}
REQUIREMENTS = Path(__file__).parents[1] / "requirements.txt"


def unmet_requirement() -> str | None:
    """The first thing that is missing or too old, in one line; None where the pack can run."""
    return _comfyui_reason() or _packages_reason() or _torch_reason()


def unknown_entrypoint() -> str | None:
    """The line for a ComfyUI too old to call the entry point, which would not say why; None for others and without."""
    if "folder_paths" not in sys.modules:  # no ComfyUI, as in tests and on the command line
        return None
    version = _version("comfyui_version")
    too_old = not _has("comfy_api.latest") if version is None else version_numbers(version) < FIRST_WITH_ENTRYPOINT
    return _comfyui_reason() if too_old else None


def _comfyui_reason() -> str | None:
    version = _version("comfyui_version")
    needed = ".".join(map(str, COMFYUI))
    if version is not None and version_numbers(version) < COMFYUI:
        return f"{NAME} needs ComfyUI {needed} or newer; this is ComfyUI {version}: update ComfyUI"
    if not _has("comfy_api.latest"):
        return f"{NAME} needs ComfyUI {needed} or newer; this one has no comfy_api.latest: update ComfyUI"
    return None


def _packages_reason() -> str | None:
    missing = [package for module, package in PACKAGES.items() if not _has(module)]
    if not missing:
        return None
    install = f'"{sys.executable}" -m pip install -r "{REQUIREMENTS}"'
    return f"{NAME} misses the Python packages {', '.join(missing)}; install them with: {install}"


def _torch_reason() -> str | None:
    version, needed = _version("torch"), ".".join(map(str, TORCH))
    if version is None:
        return f"{NAME} needs PyTorch {needed} or newer, and there is none; install it as ComfyUI says"
    if version_numbers(version) < TORCH:
        return f"{NAME} needs PyTorch {needed} or newer; this is PyTorch {version}: update it as ComfyUI says"
    return None


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # no such parent package
        return False
    except ValueError:  # a module that was put in place without a spec
        return sys.modules.get(module) is not None


def _version(module: str) -> str | None:
    try:
        return str(importlib.import_module(module).__version__)
    except (ImportError, AttributeError):
        return None
