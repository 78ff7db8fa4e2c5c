"""Reads a LoRA: for each matrix that it changes, A [rank,in], B [out,rank] and the factor of B·A."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from torch import Tensor

from ..checkpoint.config import TransformerConfig
from ..checkpoint.tensor_files import TensorFile, open_tensor_file
from ..errors import CheckpointError, InputError
from ..files.fingerprint import sampled_hash
from .adapter_settings import CONFIG, read_settings
from .keys import ALPHA, DOWN, UP, Key, module_name, parse_key, targets, unsupported_kind

logger = logging.getLogger(__name__)

EXPECTED = "a LoRA in a .safetensors file"
IN_FOLDER = ("adapter_model.safetensors", "adapter_model.bin", "pytorch_lora_weights.safetensors")
DTYPES = ("F32", "F16", "BF16", "F64")
MOST_NAMED = 3
Place = tuple[int, str]


@dataclass(frozen=True, eq=False)
class LowRank:
    """scale · up·down of a matrix: `down` [rank,in], `up` [out,rank], in host memory in the dtype of the file."""

    down: Tensor
    up: Tensor
    scale: float

    @property
    def rank(self) -> int:
        return len(self.down)


@dataclass(frozen=True, eq=False)
class Lora:
    """A LoRA: what it adds, by layer and matrix, and the fingerprint of its files.

    The same file read again is another LoRA.
    """

    path: Path
    matrices: Mapping[Place, LowRank]
    id: str

    @property
    def name(self) -> str:
        """The file's name; of PEFT's fixed name, the folder's."""
        return self.path.parent.name if self.path.name in IN_FOLDER else self.path.name


def lora_file(path: str | Path) -> Path:
    """The file of a LoRA; of a folder the one that PEFT or diffusers writes. Raises InputError."""
    path = Path(path)
    if not path.is_dir():
        return path
    found = next((path / name for name in IN_FOLDER if (path / name).is_file()), None)
    if found is None:
        raise InputError(f"the folder {path} holds no {IN_FOLDER[0]}; expected {EXPECTED}, or its folder")
    return found


def files_read(path: str | Path) -> tuple[Path, ...]:
    """The files that `read_lora` reads."""
    file = lora_file(path)
    return file, file.parent / CONFIG


def read_lora(path: str | Path, config: TransformerConfig) -> Lora:
    """The LoRA in a file or PEFT's folder, for a model of this config.

    Logs a warning for tensors that are of no matrix of the model's blocks. Raises CheckpointError for a file that is
    no LoRA, of another kind or model, or damaged; InputError for a folder without one.
    """
    file = open_tensor_file(lora_file(path), EXPECTED)
    if found := unsupported_kind(file.shapes):
        kind, name = found
        raise CheckpointError(f"{file.path} is {kind} (it holds `{name}`), which is not supported; expected a LoRA")
    keys, others = _parse(file)
    if not keys:
        raise CheckpointError(
            f"{file.path} holds no LoRA for this model: none of its {len(file.shapes)} tensors is of a linear layer of "
            f"its blocks{_named(others)}; expected names such as {module_name(0, 'q_proj')}.lora_A.weight"
        )
    if others:
        logger.warning(
            "%s: %d of %d tensors are of no linear layer of this model's blocks and are ignored%s",
            *(file.path, len(others), len(file.shapes), _named(others)),
        )
    matrices = _Reader(file, keys, config).read()
    return Lora(file.path, matrices, sampled_hash(one for one in files_read(file.path) if one.is_file()))


def _parse(file: TensorFile) -> tuple[dict[Key, str], list[str]]:
    """The tensors of the blocks by what they are, and the names of the others. Raises CheckpointError for doubles."""
    keys, others = dict[Key, str](), list[str]()
    for name in file.shapes:
        key = parse_key(name)
        if key is None:
            others.append(name)
        elif key in keys:
            raise CheckpointError(f"{file.path} holds both `{keys[key]}` and `{name}`; expected one LoRA in a file")
        else:
            keys[key] = name
    return keys, others


class _Reader:
    """Reads and checks the tensors of the blocks."""

    def __init__(self, file: TensorFile, keys: Mapping[Key, str], config: TransformerConfig):
        self.file, self.keys, self.layers = file, keys, config.num_hidden_layers
        self.targets = targets(config)
        self.settings = read_settings(file.path, file.metadata)

    def read(self) -> dict[Place, LowRank]:
        places = sorted({(key.layer, key.matrix) for key in self.keys})
        if places[-1][0] >= self.layers:
            layer, matrix = places[-1]
            self._fail(
                f"changes {module_name(layer, matrix)} and the model has {self.layers} layers, the last of which is "
                f"{self.layers - 1}; the LoRA is of another model"
            )
        return {place: self._matrix(*place) for place in places}

    def _matrix(self, layer: int, matrix: str) -> LowRank:
        down, up = (self._values(layer, matrix, role) for role in (DOWN, UP))
        module, target = module_name(layer, matrix), self.targets[matrix]
        if len(down) != up.shape[1]:
            self._fail(f"has A of rank {len(down)} and B of rank {up.shape[1]} for {module}; expected one rank")
        found, expected = (len(up), down.shape[1]), (target.rows, target.inputs)
        if found != expected:
            sizes = [f"{rows}x{inputs}" for rows, inputs in (found, expected)]
            self._fail(f"changes {module} as a matrix of {sizes[0]}; expected {sizes[1]}: the LoRA is of another model")
        return LowRank(down, up, self.settings.scale(module, len(down), self._alpha(layer, matrix)))

    def _values(self, layer: int, matrix: str, role: str) -> Tensor:
        name = self.keys.get(Key(layer, matrix, role))
        if name is None:
            self._fail(f"holds no {role} for {module_name(layer, matrix)}; expected A (down) and B (up)")
        if self.file.dtypes[name] not in DTYPES:
            self._fail(f"holds `{name}` in {self.file.dtypes[name]}; expected one of {', '.join(DTYPES)}")
        shape = self.file.shapes[name]
        matrix_shape = shape[:2] if math.prod(shape[2:]) == 1 else shape  # of a convolution of 1x1
        if len(matrix_shape) != 2 or 0 in shape:
            self._fail(f"holds `{name}` of shape {list(shape)}; expected a matrix")
        values = self.file.get(name).clone().view(matrix_shape)
        if not bool(values.isfinite().all()):
            self._fail(f"holds NaN or infinite values in `{name}`; it is damaged: get it again")
        return values

    def _alpha(self, layer: int, matrix: str) -> float | None:
        name = self.keys.get(Key(layer, matrix, ALPHA))
        if name is None:
            return None
        value = self.file.get(name)
        if value.numel() != 1 or not math.isfinite(float(value)):
            self._fail(f"holds `{name}` of shape {list(value.shape)}; expected one finite number")
        return float(value)

    def _fail(self, what: str) -> NoReturn:
        raise CheckpointError(f"{self.file.path} {what}")


def _named(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f" ({', '.join(f'`{name}`' for name in names[:MOST_NAMED])}{more})"
