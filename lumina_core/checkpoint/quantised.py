"""Checkpoints that other programs quantised: their weights are found, and read as the packed tensors of our schemes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import CheckpointError
from .comfy_weights import ComfyWeight, comfy_layers, is_marker, read_comfy
from .names import is_unused
from .packed_weights import WEIGHT, PackedWeight, StoredTensor
from .published import BLOCK_LINEARS, is_block_linear, packed_name
from .tensor_files import TensorFile
from .torchao_weights import TENSOR_NAMES, TorchaoWeight, read_torchao, torchao_names

Tensors = Mapping[str, StoredTensor]
Weights = Mapping[str, TorchaoWeight | ComfyWeight]


@dataclass(frozen=True)
class Quantised:
    """The tensors of a checkpoint with those that were quantised replaced.

    A block's linear weight is replaced by its packed tensors in `scheme`, any other by the dequantised weight. `form`
    is what stored it. Both are None where no block is quantised.
    """

    tensors: Tensors
    scheme: str | None
    form: str | None


@dataclass(frozen=True)
class Described:
    """What the metadata of a checkpoint's files say of quantised tensors.

    `names` are the names that they have for them, which are not those of stored tensors.
    """

    metadata: Mapping[str, str]
    source: str

    @classmethod
    def of(cls, files: Iterable[TensorFile]) -> Described:
        """The metadata of all files, of which each may list its own tensors."""
        metadata, names, source = dict[str, str](), list[str](), ""
        for file in files:
            metadata = {**file.metadata, **metadata}
            names += torchao_names(file.metadata, str(file.path))
            source = source or str(file.path)
        return cls(metadata | ({TENSOR_NAMES: json.dumps(list(dict.fromkeys(names)))} if names else {}), source)

    @property
    def names(self) -> list[str]:
        layers = comfy_layers(self.metadata, self.source)
        return [*torchao_names(self.metadata, self.source), *(f"{layer}.weight" for layer in layers)]

    def read(self, tensors: Tensors, published: Mapping[str, str]) -> Quantised:
        """The tensors, with the quantised ones replaced. `published` are the published names by the stored ones.

        Raises CheckpointError for a form that has no scheme here, and where the blocks are not all in one form.
        """
        weights = {**self._torchao(tensors, published), **self._comfy(tensors, published)}
        if not weights:
            return Quantised(tensors, None, None)
        packed = {name: weight.read() for name, weight in weights.items()}
        self._check_alike(packed, weights, tensors)
        first = next((name for name in sorted(packed, key=_order) if _is_of_block(name)), None)
        scheme, form = (None, None) if first is None else (packed[first].scheme, weights[first].form)
        return Quantised({**_without(weights, tensors), **_replaced(packed)}, scheme, form)

    def _torchao(self, tensors: Tensors, published: Mapping[str, str]) -> Weights:
        stored = torchao_names(self.metadata, self.source)
        names = {name: published[name] for name in stored if not is_unused(published[name])}
        return read_torchao(names, self.metadata, tensors, self.source)

    def _comfy(self, tensors: Tensors, published: Mapping[str, str]) -> Weights:
        layers = comfy_layers(self.metadata, self.source)
        own = {published[f"{layer}.weight"].removesuffix(".weight"): value for layer, value in layers.items()}
        used = {layer: value for layer, value in own.items() if not is_unused(f"{layer}.weight")}
        return read_comfy(used, tensors, self.source)

    def _check_alike(self, packed: Mapping[str, PackedWeight], weights: Weights, tensors: Tensors) -> None:
        """Raises CheckpointError that names the first block linear that is stored otherwise than the first of all."""
        forms = {name: tensors[name].dtype for name in tensors if _is_of_block(name)}
        forms |= {name: packed[name].scheme for name in packed if _is_of_block(name)}
        ordered = sorted(forms, key=_order)
        other = next((name for name in ordered if forms[name] != forms[ordered[0]]), None)
        plain = all(name not in packed for name in ordered)
        if other is not None and not plain:
            by = next(weights[name].form for name in ordered if name in packed)
            raise CheckpointError(
                f"{self.source}: `{other}` is {forms[other]} and `{ordered[0]}` is {forms[ordered[0]]} ({by}); "
                "expected the linear layers of all blocks in one form: quantise all of them alike"
            )


def _without(weights: Weights, tensors: Tensors) -> dict[str, StoredTensor]:
    """The tensors that belong to no quantised weight."""
    own = set[str]().union(*(weight.own_names for weight in weights.values()))
    return {name: tensor for name, tensor in tensors.items() if name not in own and not is_marker(name)}


def _replaced(packed: Mapping[str, PackedWeight]) -> dict[str, StoredTensor]:
    found = dict[str, StoredTensor]()
    for name, weight in packed.items():
        if _is_of_block(name):
            found |= {packed_name(name, key): StoredTensor(weight, key) for key in weight.packed_keys}
        else:
            found[name] = StoredTensor(weight, WEIGHT)
    return found


def _is_of_block(name: str) -> bool:
    return name.endswith(".weight") and name.count(".") > 1 and is_block_linear(name)


def _order(name: str) -> tuple[int, int]:
    """Layers in their order, and in a layer its linear weights."""
    numbers = [int(part) for part in name.split(".") if part.isdecimal() and len(part) < 10]
    part = name.split(".")[-2]
    return (numbers or [0])[0], BLOCK_LINEARS.index(part) if part in BLOCK_LINEARS else len(BLOCK_LINEARS)
