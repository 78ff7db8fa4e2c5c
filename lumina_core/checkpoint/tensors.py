"""Reads tensors from safetensors files and from the official MoVQGAN pickle."""

import json
import math
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError

Shape = tuple[int, ...]

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U8": torch.uint8,
    "I8": torch.int8,
}


@dataclass(frozen=True)
class TensorSpec:
    """A tensor's dtype (its safetensors name) and shape."""

    dtype: str
    shape: Shape

    @property
    def item_bytes(self) -> int:
        return DTYPES[self.dtype].itemsize

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.item_bytes


def dtype_name(dtype: torch.dtype) -> str:
    """The safetensors name of a dtype. Raises CheckpointError for an unsupported dtype."""
    for name, known in DTYPES.items():
        if known == dtype:
            return name
    raise CheckpointError(f"a tensor has dtype {dtype}; expected one of {', '.join(DTYPES)}")


class TensorStore:
    """Names, shapes and memory-mapped tensors of one or more safetensors files.

    Opening reads the headers. Raises CheckpointError when a file is missing, truncated or not a safetensors file, and
    when two files contain the same name.
    """

    def __init__(self, paths: Iterable[Path]):
        self._files = {}
        self._home: dict[str, Path] = {}
        for path in paths:
            self._files[path] = open_safetensors(path)
            for name in self._files[path].keys():  # noqa: SIM118  (not a dict)
                if name in self._home:
                    raise CheckpointError(f"tensor `{name}` is in both {self._home[name]} and {path}; expected it once")
                self._home[name] = path

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(self._files)

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of the first file."""
        return dict(next(iter(self._files.values())).metadata() or {})

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: tuple(self._slice(name).get_shape()) for name in self._home}

    @property
    def dtypes(self) -> dict[str, str]:
        """Safetensors names of the dtypes, such as BF16."""
        return {name: self._slice(name).get_dtype() for name in self._home}

    def get(self, name: str) -> Tensor:
        """The memory-mapped tensor. Its bytes are read on first use."""
        return self._tensor(self._files[self._home[name]], name)

    def get_alone(self, name: str) -> Tensor:
        """The tensor in a mapping of its own, which is freed with the tensor; for files larger than memory."""
        return self._tensor(open_safetensors(self._home[name]), name)

    def _tensor(self, file: Any, name: str) -> Tensor:
        try:
            return file.get_tensor(name)
        except (SafetensorError, RuntimeError) as error:
            raise CheckpointError(f"cannot read tensor `{name}` of {self._home[name]}: {error}") from error

    def _slice(self, name: str) -> Any:
        return self._files[self._home[name]].get_slice(name)


def open_safetensors(path: Path) -> Any:
    """An open safetensors file. Raises CheckpointError when it is missing, truncated or of another format."""
    if not path.is_file():
        raise CheckpointError(f"file {path} is missing; download it again or choose another checkpoint")
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file ({error}); the download may be incomplete: download it again"
        ) from error


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch pickle, or of its `state_dict`. Other values are ignored.

    Unpickles only tensors and plain containers. Raises CheckpointError for anything else, such as code.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is not a file of plain tensors (it may contain code, which is never run); "
            "expected the official MoVQGAN .ckpt or a .safetensors file"
        ) from error
    except Exception as error:  # a damaged pickle can raise any exception
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"cannot read {path}: {reason}; it is damaged: download it again") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} contains a {type(content).__name__}; expected a dict of tensors")
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError when the file is missing or contains no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"file {path} is missing; expected it as in the published checkpoint folder") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} contains a JSON {type(content).__name__}; expected an object")
    return content


def check_tensors(found: dict[str, Shape], expected: dict[str, Shape], source: str) -> None:
    """Raises one CheckpointError that lists missing and unexpected tensors and wrong shapes."""
    problems = [f"missing `{name}`" for name in expected if name not in found]
    problems += [f"unexpected `{name}`" for name in found if name not in expected]
    problems += [
        f"`{name}` has shape {list(found[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(
            f"{source} does not contain the tensors of this model: {'; '.join(problems[:5])}{more}. "
            "Check that all files are of the same checkpoint and were downloaded completely"
        )


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"
