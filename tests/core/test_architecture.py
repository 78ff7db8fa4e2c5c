"""Packages import in one direction, and each part can be imported without those above it."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGINE = ROOT / "lumina_core"
# Every import leads to a name further left, so there is no circle.
ORDER = (
    *("errors", "host", "device", "files", "pictures", "tokens", "checkpoint"),
    *("kernels", "operations", "quant", "movqgan", "lora"),
    "model",
    *("decoding", "memory", "pipeline", "timing", "convert", "cli", "__main__"),
)
FILES_OF_A_USER = {"files", "pictures", "tokens", "checkpoint"}
MOST_FILES_AT_THE_TOP = 8


def imports(file: Path) -> set[str]:
    """Packages and top modules of the engine that a file of it imports from, its own left out."""
    own = file.relative_to(ENGINE.parent).with_suffix("").parts
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            package = [*own[: -node.level], *(node.module.split(".") if node.module else ())]
            found |= {package[1]} if package[1:] else {name.name for name in node.names}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
            assert not any(name.startswith("lumina_core") for name in names), f"{file} imports by an absolute name"
    return found - {own[1]}


def imports_by_package() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for file in ENGINE.rglob("*.py"):
        package = file.relative_to(ENGINE).with_suffix("").parts[0]
        if package != "__init__":  # imports what it is asked for
            found.setdefault(package, set()).update(imports(file))
    return found


@pytest.mark.parametrize(("package", "imported"), imports_by_package().items())
def test_packages_import_in_one_direction(package: str, imported: set[str]) -> None:
    assert imported <= set(ORDER[: ORDER.index(package)])


def test_computing_knows_nothing_of_a_users_files() -> None:
    found = imports_by_package()
    assert not (found["kernels"] | found["quant"]) & FILES_OF_A_USER


def test_the_top_holds_few_files() -> None:
    assert len(list(ENGINE.glob("*.py"))) <= MOST_FILES_AT_THE_TOP


def test_packages_are_empty_of_names() -> None:
    for face in ENGINE.glob("*/__init__.py"):
        assert [type(node) for node in ast.parse(face.read_text(encoding="utf-8")).body] == [ast.Expr], face


def test_the_engine_is_imported_part_by_part() -> None:
    program = (
        "import json, sys, lumina_core; torch = 'torch' in sys.modules;"
        "import lumina_core.checkpoint.config, lumina_core.tokens.tokenizer;"
        "print(json.dumps([torch, [name for name in sys.modules if name.startswith('lumina_core.')]]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    has_torch, loaded = json.loads(done.stdout)
    assert not has_torch
    assert {name.split(".")[1] for name in loaded} == {"checkpoint", "tokens", "files", "errors"}
