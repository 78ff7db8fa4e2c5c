"""Weights in safetensors files that torchao saved, read without torchao.

`flatten_tensor_state_dict` of torchao stores the inner tensors of a quantised `X.weight` as `X._weight_qdata` and so
on. The metadata hold `tensor_names`, a JSON list, and for each name a JSON object: `_type` the class, `_data` its
attributes, `_tensor_data_names` the inner tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from ..errors import CheckpointError
from ..files.json_text import parse_json
from .packed_weights import GROUP, PackedWeight, StoredTensor, int4_tiles, per_row

TENSOR_NAMES = "tensor_names"
PLAIN = "Tensor"
# Files of 0.15 and 0.18 were read; those between have the same names.
VERSIONS = "0.15 to 0.18"
AGAIN = f"quantise the bf16 checkpoint again, and save what flatten_tensor_state_dict of torchao {VERSIONS} returns"
OTHERWISE = "expected Int4TilePackedTo4dTensor (group size 128), Int8Tensor or Float8Tensor (both per row)"
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def torchao_names(metadata: Mapping[str, str], source: str) -> list[str]:
    """The names that the metadata list; none where torchao did not write the file.

    Raises CheckpointError when they are no JSON list of names.
    """
    if TENSOR_NAMES not in metadata:
        return []
    where = f"{source}: its metadata `{TENSOR_NAMES}`, of torchao,"
    names = parse_json(f'{{"names": {metadata[TENSOR_NAMES]}}}', where, fix=AGAIN)["names"]
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise CheckpointError(f"{where} is no list of names: {AGAIN}")
    return names


@dataclass(frozen=True)
class TorchaoWeight:
    """A quantised tensor as the metadata describe it: its name, class, attributes and inner tensors by their names."""

    source: str
    name: str
    kind: str
    attributes: Mapping[str, Any]
    inner: Mapping[str, StoredTensor]

    @property
    def form(self) -> str:
        """What `info` says of it."""
        return f"torchao, {self.kind}"

    @property
    def own_names(self) -> set[str]:
        """The names of the tensors that it consists of."""
        return {inner_name(self.name, key) for key in self.inner}

    def read(self) -> PackedWeight:
        """The packed tensors. Raises CheckpointError for a class or a form that has no scheme here."""
        readers: dict[str, Callable[[], PackedWeight]] = {
            "Int4TilePackedTo4dTensor": self._int4,
            "Int8Tensor": lambda: self._per_row("int8"),
            "IntxUnpackedToInt8Tensor": lambda: self._per_row("int8"),
            "Float8Tensor": lambda: self._per_row("fp8"),
        }
        if self.kind not in readers:
            self._fail(f"is torchao's {self.kind}, which is not supported")
        if "act_pre_scale" in self.inner:
            self._fail("has a scale of its inputs (act_pre_scale, of AWQ or SmoothQuant), which is not supported")
        return readers[self.kind]()

    def _per_row(self, scheme: str) -> PackedWeight:
        values, blocks = self._inner("qdata"), self.attributes.get("block_size")
        if blocks is not None and blocks not in ([1, *values.shape[1:]], list(values.shape), []):
            self._fail(f"is torchao's {self.kind} with one scale for {blocks} weights [out, in]")
        zero = self.inner.get("zero_point")
        if zero is not None and bool(zero.rows(slice(None)).any()):
            self._fail(f"is torchao's {self.kind} with zero points (asymmetric), which is not supported")
        return per_row(scheme, values, self._inner("scale"), self._dtype())

    def _int4(self) -> PackedWeight:
        blocks, shape = self.attributes.get("block_size"), self.attributes.get("shape")
        if not isinstance(shape, list) or len(shape) != 2 or not all(isinstance(n, int) and n > 0 for n in shape):
            raise CheckpointError(f"{self.source}: the metadata of `{self.name}` have shape {shape!r:.60}: {AGAIN}")
        if blocks != [1, GROUP]:
            size = blocks[-1] if isinstance(blocks, list) and blocks else blocks
            self._fail(f"is torchao's {self.kind} with group size {size}")
        return int4_tiles(self._inner("qdata"), self._inner("scale_and_zero"), tuple(shape))

    def _dtype(self) -> str:
        """The dtype of the weight before it was quantised, which torchao dequantises it to."""
        dtype = self.attributes.get("dtype")
        return _DTYPES.get(str(dtype.get("_data")) if isinstance(dtype, dict) else "", "BF16")

    def _inner(self, key: str) -> StoredTensor:
        if key not in self.inner:
            raise CheckpointError(f"{self.source}: `{inner_name(self.name, key)}` is missing: {AGAIN}")
        return self.inner[key]

    def _fail(self, what: str) -> NoReturn:
        raise CheckpointError(
            f"{self.source}: `{self.name}` {what}; {OTHERWISE}: quantise it to one of them, or get the checkpoint in "
            "bf16 and choose int4 or int8 here"
        )


def read_torchao(
    names: Mapping[str, str], metadata: Mapping[str, str], tensors: Mapping[str, StoredTensor], source: str
) -> dict[str, TorchaoWeight]:
    """The quantised weights by their published names. `names` are the published names of those in the metadata.

    Raises CheckpointError for damaged metadata and for missing inner tensors.
    """
    found = dict[str, TorchaoWeight]()
    for stored, name in names.items():
        described = _described(stored, metadata, source)
        kind, keys = described["_type"], described.get("_tensor_data_names", [])
        if kind == PLAIN:
            continue
        missing = [key for key in keys if inner_name(name, key) not in tensors]
        if missing:
            raise CheckpointError(f"{source}: `{inner_name(stored, missing[0])}` is missing: {AGAIN}")
        inner = {key: tensors[inner_name(name, key)] for key in keys}
        found[name] = TorchaoWeight(source, name, kind, described.get("_data", {}), inner)
    return found


def inner_name(name: str, key: str) -> str:
    """The name of the inner tensor `key` of a quantised tensor."""
    module, _, leaf = name.rpartition(".")
    return f"{module}._{leaf}_{key}"


def _described(name: str, metadata: Mapping[str, str], source: str) -> dict[str, Any]:
    """The JSON object of a name, whose values have the kinds that it should have."""
    where = f"{source}: its metadata `{name}`, of torchao,"
    if name not in metadata:
        raise CheckpointError(f"{where} is missing: {AGAIN}")
    found = parse_json(metadata[name], where, fix=AGAIN)
    if not isinstance(found.get("_type"), str):
        raise CheckpointError(f"{where} names no class: {AGAIN}")
    keys, attributes = found.get("_tensor_data_names", []), found.get("_data", {})
    if not isinstance(attributes, dict) or not isinstance(keys, list) or not all(isinstance(k, str) for k in keys):
        raise CheckpointError(f"{where} is not that of a {found['_type']:.80}: {AGAIN}")
    return found
