"""Loads the node pack as ComfyUI does."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

PACK = Path(__file__).parents[2]
PACK_MODULE = "lumina_pack_as_comfyui_loads_it"


@pytest.fixture(scope="session")
def pack() -> ModuleType:
    """The root module of the pack under a separate name, without its folder on `sys.path`."""
    spec = importlib.util.spec_from_file_location(PACK_MODULE, PACK / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK_MODULE] = module
    spec.loader.exec_module(module)
    return module
