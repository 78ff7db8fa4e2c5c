"""Weights that ComfyUI quantised, or programs that write its forms.

Since 0.5 a quantised `X.weight` has a `X.comfy_quant` beside it: JSON in a uint8 tensor, whose `format` names how the
weight is stored; the metadata `_quantization_metadata` may hold the same by layer. In the older "scaled fp8" a tensor
`scaled_fp8` marks the file, and a weight in float8 has a `X.scale_weight`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from ..errors import CheckpointError
from ..files.json_text import parse_json
from .packed_weights import PackedWeight, StoredTensor, per_row

QUANT, MARKER, METADATA = "comfy_quant", "scaled_fp8", "_quantization_metadata"
# The scale of a weight, in the newer and the older form.
SCALES = ("weight_scale", "scale_weight")
# What belongs to a quantised weight and is not read: scales of inputs, which stay in the dtype of the computation.
UNREAD = (QUANT, "input_scale", "scale_input")
SCHEMES = {"float8_e4m3fn": "fp8", "int8_tensorwise": "int8"}
AGAIN = "quantise the bf16 checkpoint again"


def comfy_layers(metadata: Mapping[str, str], source: str) -> dict[str, Any]:
    """What the metadata say of layers; nothing where there is nothing. Raises CheckpointError for damaged JSON."""
    if METADATA not in metadata:
        return {}
    found = parse_json(metadata[METADATA], f"{source}: its metadata `{METADATA}`", fix=AGAIN)
    layers = found.get("layers")
    if not isinstance(layers, dict):
        raise CheckpointError(f"{source}: its metadata `{METADATA}` list no layers: {AGAIN}")
    return layers


@dataclass(frozen=True)
class ComfyWeight:
    """A quantised weight: the name of its layer, what the file says of it, and the tensors of the layer."""

    source: str
    layer: str
    description: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]

    @property
    def format(self) -> object:
        return self.description.get("format")

    @property
    def form(self) -> str:
        """What `info` says of it."""
        return f"ComfyUI, {self.format}"

    @property
    def own_names(self) -> set[str]:
        """The names of the tensors that it consists of, and of those that belong to it and are not read."""
        return {f"{self.layer}.{key}" for key in ("weight", *SCALES, *UNREAD)}

    def read(self) -> PackedWeight:
        """The packed tensors. Raises CheckpointError for a format that has no scheme here."""
        if not isinstance(self.format, str) or self.format not in SCHEMES:
            self._fail(f"is in ComfyUI's format {self.format!r:.80}, which is not supported")
        inner = self.description.get("params")
        for values in (self.description, inner if isinstance(inner, dict) else {}):
            if values.get("convrot"):
                self._fail(f"is in ComfyUI's format {self.format} with rotated weights (convrot)")
        if "pre_quant_scale" in self.tensors:
            self._fail("has a scale of its inputs (pre_quant_scale), which is not supported")
        scale = next((self.tensors[key] for key in SCALES if key in self.tensors), None)
        if scale is None or "weight" not in self.tensors:
            what = "`weight`" if scale is not None else " or ".join(f"`{key}`" for key in SCALES)
            raise CheckpointError(f"{self.source}: {self.layer} has no {what}: {AGAIN}")
        return per_row(SCHEMES[self.format], self.tensors["weight"], scale)

    def _fail(self, what: str) -> NoReturn:
        raise CheckpointError(
            f"{self.source}: `{self.layer}.weight` {what}; expected {' or '.join(SCHEMES)}: quantise it to one of "
            "them, or get the checkpoint in bf16 and choose int4 or int8 here"
        )


def read_comfy(layers: Mapping[str, Any], tensors: Mapping[str, StoredTensor], source: str) -> dict[str, ComfyWeight]:
    """The quantised weights by their published names. `layers` is what the metadata say, by published layer.

    Raises CheckpointError for a description that is damaged.
    """
    described = dict(layers) | _of_tensors(tensors, source) | _of_scaled_fp8(tensors)
    found = dict[str, ComfyWeight]()
    for layer, description in described.items():
        if not isinstance(description, dict):
            raise CheckpointError(f"{source}: what `{METADATA}` says of {layer} is no JSON object: {AGAIN}")
        keys = ("weight", *SCALES, "pre_quant_scale")
        own = {key: tensors[f"{layer}.{key}"] for key in keys if f"{layer}.{key}" in tensors}
        found[f"{layer}.weight"] = ComfyWeight(source, layer, description, own)
    return found


def is_marker(name: str) -> bool:
    """Whether a tensor marks a file in the older form."""
    return name.rpartition(".")[2] == MARKER


def _of_tensors(tensors: Mapping[str, StoredTensor], source: str) -> dict[str, Any]:
    found = {}
    for name, tensor in tensors.items():
        if name.endswith(f".{QUANT}"):
            tensor.check_dtype("U8")
            text = tensor.rows(slice(None)).numpy().tobytes().decode("utf-8", "replace")
            found[name.removesuffix(f".{QUANT}")] = parse_json(text, f"{source}: `{name}`", fix=AGAIN)
    return found


def _of_scaled_fp8(tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    """The layers of a file in the older form: the weights in float8. The marker's dtype is theirs."""
    marker = next((tensor for name, tensor in tensors.items() if is_marker(name)), None)
    if marker is None:
        return {}
    format = "float8_e5m2" if marker.dtype == "F8_E5M2" else "float8_e4m3fn"
    scaled = {name.removesuffix(f".{SCALES[1]}") for name in tensors if name.endswith(f".{SCALES[1]}")}
    in_float8 = {name.removesuffix(".weight") for name, tensor in tensors.items() if tensor.dtype.startswith("F8_")}
    return {layer: {"format": format} for layer in scaled | in_float8 if not is_marker(layer)}
