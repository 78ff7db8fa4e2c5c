"""Loads the node pack as ComfyUI does."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest

PACK = Path(__file__).parents[2]
PACK_MODULE = "lumina_pack_as_comfyui_loads_it"
COMFYUI = (
    *("comfy", "comfy.cli_args", "comfy.model_management", "comfy.model_patcher", "comfy.ops", "comfy.utils"),
    *("comfy_api", "comfy_api.latest", "comfy_execution", "folder_paths"),
    *("comfy_execution.graph_utils", "comfy_execution.utils"),
)


class AnyClass(type):
    """A class that has every attribute."""

    def __getattr__(cls, name: str) -> AnyClass:
        if name.startswith("__"):
            raise AttributeError(name)
        return AnyClass(name, (), {"__init__": lambda *_, **__: None})


class StandIn(ModuleType):
    """A module that has every name."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> AnyClass:
        return getattr(AnyClass("StandIn", (), {}), name)


@pytest.fixture(scope="session")
def pack() -> ModuleType:
    """The root module of the pack under a separate name, without its folder on `sys.path`."""
    spec = importlib.util.spec_from_file_location(PACK_MODULE, PACK / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK_MODULE] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def nodes(pack: ModuleType) -> Callable[[str], ModuleType]:
    """Modules of the pack by name, with ComfyUI's own modules stood in for: what needs ComfyUI must not be called."""
    with pytest.MonkeyPatch.context() as patch:
        for name in COMFYUI:
            patch.setitem(sys.modules, name, StandIn(name))
        importlib.import_module(f"{pack.__name__}.nodes.extension")
    return lambda name: sys.modules[f"{pack.__name__}.{name}"]
