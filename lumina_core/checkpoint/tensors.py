"""The tensors of a checkpoint: names, shapes, dtypes, and values that are looked at before they are used."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from .names import is_unused, published_names
from .packed_weights import StoredTensor
from .quantised import Described
from .tensor_files import EXPECTED, Shape, TensorFile, open_tensor_file
from .values import check_values

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
}
# Tensors beyond this are looked at in parts. All are in mappings of their own, so that they take no memory afterwards.
# A slow disk reads one in a third of a second.
PART_BYTES = 2**25
OnPart = Callable[[], object]


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
    """Names, shapes and memory-mapped tensors of one or more files, by their published names.

    Opening reads the headers, and drops what is of no use. Weights that another program quantised have the names and
    forms of our packed tensors (see `quantised`). A tensor's values are looked at when it is first read: NaN, infinity,
    only zeros and an end of zeros raise CheckpointError. Raises CheckpointError when a file is missing, cut off or of
    another kind, when two files contain the same name, and for weights in a form that is not supported.
    """

    def __init__(self, paths: Iterable[Path], expected: str = EXPECTED):
        self._files = tuple(open_tensor_file(path, expected) for path in paths)
        stored: dict[str, TensorFile] = {}
        for file in self._files:
            for name in file.shapes:
                if name in stored:
                    raise CheckpointError(
                        f"tensor `{name}` is in both {stored[name].path} and {file.path}; expected it once"
                    )
                stored[name] = file
        described = Described.of(self._files)
        names = published_names([*stored, *described.names], described.source)
        home = {names[name]: StoredTensor(file, name) for name, file in stored.items() if not is_unused(names[name])}
        self._quantised = described.read(home, names)
        self._home = self._quantised.tensors
        self._seen: set[str] = set()

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(file.path for file in self._files)

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of the first file."""
        return dict(self._files[0].metadata)

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: tensor.shape for name, tensor in self._home.items()}

    @property
    def dtypes(self) -> dict[str, str]:
        """Safetensors names of the dtypes, such as BF16."""
        return {name: tensor.dtype for name, tensor in self._home.items()}

    @property
    def scheme(self) -> str | None:
        """The scheme that another program quantised the blocks' linear weights to; None where none did."""
        return self._quantised.scheme

    @property
    def form(self) -> str | None:
        """The program and the form that it stored them in."""
        return self._quantised.form

    def get(self, name: str, on_part: OnPart | None = None) -> Tensor:
        """The memory-mapped tensor. `on_part` is called while its values are looked at, several times a second."""
        self._look_at(name, on_part)
        return self._home[name].rows(slice(None))

    def get_alone(self, name: str, on_part: OnPart | None = None) -> Tensor:
        """As `get`, in a mapping of its own, which is freed with the tensor; for files larger than memory."""
        self._look_at(name, on_part)
        return _alone(self._home[name])

    def _look_at(self, name: str, on_part: OnPart | None) -> None:
        """Raises CheckpointError for values that no model has."""
        if name not in self._seen:
            tensor = self._home[name]
            check_values(name, _parts(tensor, on_part), str(tensor.file.path))
            self._seen.add(name)


def _alone(tensor: StoredTensor) -> Tensor:
    return tensor.file.get_rows(tensor.name, slice(None)) if tensor.shape else tensor.rows(slice(None))


def _parts(tensor: StoredTensor, on_part: OnPart | None) -> Iterator[Tensor]:
    """The tensor, or its rows in parts of PART_BYTES; calls `on_part` before each."""
    tell = on_part or (lambda: None)
    tell()
    shape, dtype = tensor.shape, DTYPES.get(tensor.dtype)
    nbytes = math.prod(shape) * (dtype.itemsize if dtype else 1)
    if nbytes <= PART_BYTES or len(shape) < 2:
        yield _alone(tensor)
        return
    rows = max(1, PART_BYTES * shape[0] // nbytes)
    for first in range(0, shape[0], rows):
        yield tensor.rows(slice(first, first + rows))
        tell()
