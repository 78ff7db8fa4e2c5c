"""The packages that the engine needs, looked at before they are used. Imports nothing heavy by itself."""

from __future__ import annotations

import importlib
import re
from types import MappingProxyType

from ..errors import LuminaError
from ..host.refusals import is_out_of_memory

# Module → name of the package and its earliest version, as in pyproject.toml; PyTorch is installed apart.
PACKAGES = MappingProxyType(
    {
        "numpy": ("numpy", (1, 26)),
        "PIL": ("pillow", (10, 1)),
        "safetensors": ("safetensors", (0, 4, 2)),
        "tokenizers": ("tokenizers", (0, 20)),
        "tqdm": ("tqdm", (4, 65)),
        "torch": ("torch", (2, 5)),  # imports the others
    }
)


class PackageError(LuminaError):
    """A package is missing, too old, or broken."""


def check_packages() -> None:
    """Imports what the engine needs. Raises PackageError that names what is missing, too old or broken."""
    for module, (name, earliest) in PACKAGES.items():
        wanted = f"{name} {'.'.join(map(str, earliest))} or later"
        try:
            found = str(getattr(importlib.import_module(module), "__version__", "without a version"))
        except ModuleNotFoundError as error:
            raise PackageError(f"the package {error.name or name} is missing; expected {wanted}: install it") from error
        except (ImportError, OSError) as error:
            if is_out_of_memory(error):
                raise
            raise PackageError(
                f"the package {name} cannot be imported ({error}); expected {wanted}: install it anew"
            ) from error
        if version_numbers(found) < earliest:
            raise PackageError(f"the package {name} is {found}; expected {wanted}: update it")


def version_numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (2, 5, 1) of 2.5.1+cu121."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", version)
    return tuple(map(int, found[1].split("."))) if found else ()
