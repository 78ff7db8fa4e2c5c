"""Opens a file of tensors by what its bytes are: safetensors, or a PyTorch pickle, of which no code is ever run."""

from __future__ import annotations

import argparse
import contextlib
import json
import pickle
import re
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..device import is_out_of_memory
from ..errors import CheckpointError
from ..files.kind import PICKLE, SAFETENSORS, ZIP, FileKind, look_at

Shape = tuple[int, ...]
SAFE_SUFFIXES = (".safetensors", ".sft")
EXPECTED = "a .safetensors file, or a PyTorch file of plain tensors"
# Where programs put the tensors in a pickle of more than them.
_INNER = ("state_dict", "model", "module", "model_state_dict", "checkpoint", "weights", "params", "ema")
MOST_WRAPPERS = 3
_REASON = re.compile(r"WeightsUnpickler error:\s*(.+)")
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


class TensorFile(ABC):
    """An opened file: the dtypes (safetensors names) and shapes of its tensors, by name."""

    path: Path
    metadata: Mapping[str, str]
    dtypes: Mapping[str, str]
    shapes: Mapping[str, Shape]

    @abstractmethod
    def get(self, name: str) -> Tensor:
        """The memory-mapped tensor."""

    @abstractmethod
    def get_rows(self, name: str, rows: slice) -> Tensor:
        """Some rows, in a mapping of their own that is freed with them."""


def open_tensor_file(path: Path, expected: str = EXPECTED) -> TensorFile:
    """The file, whatever its name says. Raises CheckpointError that says what it is when it holds no tensors."""
    kind = look_at(path, CheckpointError, expected)
    if kind.name == SAFETENSORS:
        return SafetensorsFile(path, kind)
    if kind.name == ZIP and not _is_torch_zip(path):
        raise CheckpointError(f"{path} is a zip archive, not a PyTorch file; unpack it, or download {expected}")
    if kind.name in (ZIP, PICKLE):
        return PickleFile(path)
    raise CheckpointError(f"{path} is {kind}; expected {expected}")


class SafetensorsFile(TensorFile):
    """A safetensors file. Opening reads the header."""

    def __init__(self, path: Path, kind: FileKind):
        self.path, self._file = path, _open(path, kind)
        self.metadata = dict(self._file.metadata() or {})
        slices = {name: self._file.get_slice(name) for name in self._file.keys()}  # noqa: SIM118  (not a dict)
        self.dtypes = {name: one.get_dtype() for name, one in slices.items()}
        self.shapes = {name: tuple(one.get_shape()) for name, one in slices.items()}
        self._kind = kind

    def get(self, name: str) -> Tensor:
        return _read(self.path, name, lambda: self._file.get_tensor(name))

    def get_rows(self, name: str, rows: slice) -> Tensor:
        return _read(self.path, name, lambda: self._map(name)[rows])

    def _map(self, name: str) -> Tensor:
        """A tensor in a mapping of its own, without reading the header again, which may hold a whole tokenizer."""
        first, end = self._offsets[name]
        found = self._file.get_slice(name)[:0]  # its dtype; no value is read
        if first == end or (self._begin + first) % found.dtype.itemsize:
            return _open(self.path, self._kind).get_tensor(name)
        values = np.memmap(self.path, np.uint8, "c", offset=self._begin + first, shape=(end - first,))
        return torch.from_numpy(values).view(found.dtype).view(self.shapes[name])

    @cached_property
    def _begin(self) -> int:
        """Where the tensors begin in the file."""
        with self.path.open("rb") as file:
            return 8 + int.from_bytes(file.read(8), "little")

    @cached_property
    def _offsets(self) -> dict[str, tuple[int, int]]:
        """The bytes of each tensor, counted from `_begin`. safetensors has checked them."""
        with self.path.open("rb") as file:
            header = json.loads(file.read(self._begin)[8:])
        return {name: tuple(one["data_offsets"]) for name, one in header.items() if name != "__metadata__"}


class PickleFile(TensorFile):
    """A PyTorch pickle of plain tensors."""

    def __init__(self, path: Path):
        self.path, self._tensors = path, read_pickle(path)
        self.metadata = {}
        self.dtypes = {name: _NAMES.get(one.dtype, str(one.dtype)) for name, one in self._tensors.items()}
        self.shapes = {name: tuple(one.shape) for name, one in self._tensors.items()}

    def get(self, name: str) -> Tensor:
        return self._tensors[name]

    def get_rows(self, name: str, rows: slice) -> Tensor:
        return self._tensors[name][rows]


_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e4m3fn: "F8_E4M3",
}


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch pickle, or of the `state_dict` in it; other values are ignored.

    Unpickles tensors and plain containers only. Raises CheckpointError for anything else, such as code, and for tensors
    that are not plain: larger than what is stored of them, without values, sparse, nested or quantised.
    """
    content = _unpickle(path)
    for _ in range(MOST_WRAPPERS):
        inner = (content[key] for key in _INNER if isinstance(content, dict) and isinstance(content.get(key), dict))
        content = next(inner, content)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} contains a {type(content).__name__}; expected a dict of tensors")
    tensors = {name: one for name, one in content.items() if isinstance(name, str) and isinstance(one, Tensor)}
    for name, tensor in tensors.items():
        if reason := _not_plain(tensor):
            raise CheckpointError(f"{path}: `{name}` {reason}; expected plain tensors: get the file again")
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _unpickle(path: Path) -> Any:
    if _is_program(path):
        raise CheckpointError(_unpickling_message(path, "TorchScript"))
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()):
            warnings.simplefilter("ignore")
            if path.suffix.lower() in SAFE_SUFFIXES:  # torch.load would take it for a safetensors file
                with path.open("rb") as file:
                    return torch.load(file, map_location="cpu", weights_only=True)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except pickle.UnpicklingError as error:
        if is_out_of_memory(error):
            raise
        raise CheckpointError(_unpickling_message(path, str(error))) from error
    except Exception as error:  # a damaged pickle can raise any exception
        if is_out_of_memory(error):
            raise
        if "TorchScript" in str(error):
            raise CheckpointError(_unpickling_message(path, str(error))) from error
        if "Invalid magic number" in str(error):
            raise CheckpointError(f"{path} is a Python pickle, not a PyTorch file; expected {EXPECTED}") from error
        raise CheckpointError(f"cannot read {path}: {_first_line(error)}; it is damaged: download it again") from error


def _is_program(path: Path) -> bool:
    """Whether a file is a TorchScript program, which PyTorch 2.5 loads as one whatever `weights_only` says."""
    with contextlib.suppress(OSError, ValueError, zipfile.BadZipFile, NotImplementedError):  # torch says what is wrong
        if _is_zip(path):
            with zipfile.ZipFile(path) as archive:
                return any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist())
    return False


def _unpickling_message(path: Path, text: str) -> str:
    if (found := _GLOBAL.search(text)) and found[1].startswith("torchao."):
        return (
            f"{path} is a pickle of tensors of torchao ({found[1]}), which is never run; save what torchao's "
            "flatten_tensor_state_dict returns as a .safetensors file, tensors and metadata"
        )
    if found:
        return (
            f"{path} is not a file of plain tensors: it holds {found[1]} (it may contain code, which is never run); "
            "save its state_dict alone, or get a .safetensors file"
        )
    if "TorchScript" in text:
        return f"{path} is a TorchScript program, not a file of plain tensors; expected {EXPECTED}: save its state_dict"
    if "Unsupported operand" in text:
        return (
            f"{path} is not a file of plain tensors: it is a Python pickle (it may contain code, which is never run); "
            "expected a file that torch.save wrote, or a .safetensors file"
        )
    return (
        f"{path} is no readable PyTorch file ({_unpickler_reason(text)}); it is damaged or of another program: "
        "download it again"
    )


def _unpickler_reason(text: str) -> str:
    """What PyTorch's unpickler says, without its advice to run code."""
    found = _REASON.search(text)
    return _first_line(found[1]) if found else "it cannot be unpickled" if "weights_only" in text else _first_line(text)


def _harmless() -> list[Any]:
    """Values that trainers store beside tensors: classes, and what makes arrays of their bytes. They run no code."""
    numpy_types = [type(np.dtype(name)) for name in ("float32", "float64", "int32", "int64", "bool")]
    scalar = np.float64(0).__reduce__()[0]
    array = np.zeros(1).__reduce__()[0]
    return [argparse.Namespace, np.dtype, np.ndarray, scalar, array, *numpy_types]


def _not_plain(tensor: Tensor) -> str | None:
    """Why a tensor is not plain, by its header; None if it is."""
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        return f"is a {type(tensor).__name__}"
    if tensor.device.type == "meta":
        return "has no values"
    if tensor.is_complex():
        return "holds complex numbers"
    if tensor.is_nested or tensor.layout != torch.strided or tensor.is_quantized:
        return "is a nested, sparse or quantised tensor"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"of shape {list(tensor.shape)} is larger than what is stored of it"
    return None


def _open(path: Path, kind: FileKind) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise CheckpointError(f"{path} {_safetensors_fault(path, kind, error)}") from error


def _safetensors_fault(path: Path, kind: FileKind, error: Exception) -> str:
    """What is wrong with a safetensors file that its library refuses, by the sizes in its header."""
    again = "download it again"
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if 8 + length > kind.size:
            return f"ends inside its header, of which {8 + length - kind.size:,} bytes are missing; {again}"
        header = file.read(length)
    try:
        values = json.loads(header)
        ends = [one["data_offsets"][1] for name, one in values.items() if name != "__metadata__"]
        missing = 8 + length + max(ends, default=0) - kind.size
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return f"has a damaged header ({_first_line(error)}); {again}"
    if missing > 0:
        return f"is cut off: {missing:,} of its {kind.size + missing:,} bytes are missing; {again}"
    if missing < 0:
        return f"is too long: {-missing:,} bytes follow its last tensor; {again}"
    return f"has a damaged header ({_first_line(error)}); {again}"


def _read(path: Path, name: str, read: Any) -> Tensor:
    try:
        return read()
    except (SafetensorError, RuntimeError, OSError) as error:
        if is_out_of_memory(error):
            raise
        raise CheckpointError(f"cannot read tensor `{name}` of {path}: {_first_line(error)}") from error


def _first_line(error: object) -> str:
    lines = (line.strip() for line in str(error).splitlines())
    first = next(filter(None, lines), type(error).__name__)
    return first.partition(" (Could this error")[0][:200]


def _is_torch_zip(path: Path) -> bool:
    """Whether a zip archive is one that torch.save wrote; a damaged one counts, and torch says what is wrong."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return True


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"
