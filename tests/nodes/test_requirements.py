"""A ComfyUI, PyTorch or package that is missing or too old is said in one line."""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

PACK = Path(__file__).parents[2]


@pytest.fixture
def requirements(pack: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, in a ComfyUI that is new enough."""
    put(monkeypatch, "comfyui_version", __version__="0.33.0")
    put(monkeypatch, "comfy_api", __path__=[])
    put(monkeypatch, "comfy_api.latest")
    return importlib.import_module(f"{pack.__name__}.nodes.requirements")


def put(monkeypatch: pytest.MonkeyPatch, name: str, **values: Any) -> None:
    module = ModuleType(name)
    vars(module).update(values)
    monkeypatch.setitem(sys.modules, name, module)


def test_nothing_is_missing_here(requirements):
    assert requirements.unmet_requirement() is None and requirements.unknown_entrypoint() is None


@pytest.mark.parametrize("version", ["0.15.1", "0.3.76", "0.3.30", "v0.2.7"])
def test_an_old_comfyui_is_named_with_its_version(requirements, pack, monkeypatch, version):
    put(monkeypatch, "comfyui_version", __version__=version)
    with pytest.raises(ImportError) as caught:
        asyncio.run(pack.comfy_entrypoint())
    assert str(caught.value) == (
        f"Lumina-mGPT 2.0 needs ComfyUI 0.16 or newer; this is ComfyUI {version}: update ComfyUI"
    )


def test_a_comfyui_without_its_interface_is_too_old(requirements, pack, monkeypatch):
    monkeypatch.setitem(sys.modules, "comfyui_version", None)
    monkeypatch.setitem(sys.modules, "comfy_api.latest", None)
    with pytest.raises(ImportError, match=r"needs ComfyUI 0\.16 or newer; this one has no comfy_api\.latest"):
        asyncio.run(pack.comfy_entrypoint())


@pytest.mark.parametrize(("version", "lines"), [("0.3.30", 1), ("0.3.47", 1), ("0.3.48", 0), ("0.16.0", 0)])
def test_where_nothing_calls_the_entry_point_the_import_says_it(requirements, monkeypatch, caplog, version, lines):
    """From 0.3.48 on ComfyUI calls it, and logs the error itself."""
    put(monkeypatch, "folder_paths")
    put(monkeypatch, "comfyui_version", __version__=version)
    spec = importlib.util.spec_from_file_location("pack_in_an_old_comfyui", PACK / "__init__.py")
    monkeypatch.setitem(sys.modules, spec.name, module := importlib.util.module_from_spec(spec))
    with caplog.at_level(logging.WARNING):
        spec.loader.exec_module(module)
    assert len(caplog.messages) == lines
    assert all(f"this is ComfyUI {version}" in line and "\n" not in line for line in caplog.messages)


def test_missing_packages_are_named_with_the_command_that_installs_them(requirements, monkeypatch):
    for module in ("tokenizers", "PIL"):
        monkeypatch.setitem(sys.modules, module, None)
    reason = requirements.unmet_requirement()
    assert "misses the Python packages pillow, tokenizers; install them with: " in reason and "\n" not in reason
    assert f'"{sys.executable}" -m pip install -r "{PACK / "requirements.txt"}"' in reason


def test_the_packages_are_those_of_requirements_txt(requirements):
    lines = (PACK / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = {line.split(">=")[0] for line in lines if not line.startswith("#")}
    assert set(requirements.PACKAGES.values()) == names


@pytest.mark.parametrize(("version", "is_old"), [("2.4.1+cu121", True), ("1.13.1", True), ("2.5.0a0+git", False)])
def test_an_old_torch_is_named_with_its_version(requirements, monkeypatch, version, is_old):
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__version__=version, __spec__=None))
    reason = requirements.unmet_requirement()
    assert (reason is not None) == is_old
    assert reason is None or f"needs PyTorch 2.5 or newer; this is PyTorch {version}" in reason
