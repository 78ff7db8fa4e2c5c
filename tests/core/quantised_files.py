"""Files as torchao and ComfyUI save them, made by hand of our own packed tensors, whose values they then hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lumina_core.checkpoint.published import is_block_linear
from lumina_core.kernels.reference import unpack_codes
from lumina_core.quant.schemes import SCHEMES

QUERY, DOWN, HEAD = (
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.1.mlp.down_proj.weight",
    "lm_head.weight",
)
CLASSES = {"int8": "Int8Tensor", "fp8": "Float8Tensor", "int4": "Int4TilePackedTo4dTensor"}
FORMATS = {"int8": "int8_tensorwise", "fp8": "float8_e4m3fn"}


@dataclass
class Saved:
    """Tensors and metadata of a safetensors file."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)


def blocks(tensors: Iterable[str]) -> list[str]:
    return [name for name in tensors if is_block_linear(name)]


def torchao(tensors: dict[str, Tensor], scheme: str, names: Iterable[str] | None = None) -> Saved:
    """As `flatten_tensor_state_dict` of torchao 0.18: the linear weights of the blocks, or those named, in a scheme."""
    saved, chosen = Saved({}), set(blocks(tensors) if names is None else names)
    for name, tensor in tensors.items():
        if name not in chosen:
            saved.tensors[name] = tensor
            saved.metadata[name] = json.dumps({"_type": "Tensor"})
            continue
        inner, attributes = _INNER[scheme](tensor)
        module, _, leaf = name.rpartition(".")
        saved.tensors |= {f"{module}._{leaf}_{key}": value for key, value in inner.items()}
        described = {"_type": CLASSES[scheme], "_data": attributes, "_tensor_data_names": list(inner)}
        saved.metadata[name] = json.dumps(described)
    saved.metadata["tensor_names"] = json.dumps(list(tensors))
    return saved


def comfy(tensors: dict[str, Tensor], scheme: str) -> Saved:
    """As ComfyUI saves quantised layers: `comfy_quant` says the format."""
    values = {name: _per_row(scheme, tensors[name]) for name in blocks(tensors)}
    text = json.dumps({"format": FORMATS[scheme]}).encode()
    found = {name: values[name][0] if name in values else tensor for name, tensor in tensors.items()}
    for name, (_, scale) in values.items():
        layer = name.removesuffix("weight")
        found |= {f"{layer}weight_scale": scale, f"{layer}comfy_quant": torch.tensor(list(text), dtype=torch.uint8)}
        found[f"{layer}input_scale"] = torch.ones(())
    return Saved(found)


def comfy_by_metadata(tensors: dict[str, Tensor], scheme: str) -> Saved:
    """As `comfy`, with the formats in the file's metadata."""
    found = {name: one for name, one in comfy(tensors, scheme).tensors.items() if not name.endswith("comfy_quant")}
    layers = {name.removesuffix(".weight"): {"format": FORMATS[scheme]} for name in blocks(tensors)}
    return Saved(found, {"_quantization_metadata": json.dumps({"layers": layers})})


def scaled_fp8(tensors: dict[str, Tensor], scheme: str = "fp8") -> Saved:
    """The older form of ComfyUI, with the prefix of a diffusion model."""
    found = comfy_by_metadata(tensors, scheme).tensors
    names = {name: name.replace("weight_scale", "scale_weight").replace("input_scale", "scale_input") for name in found}
    marker = torch.zeros(0, dtype=torch.float8_e4m3fn)
    kept = {f"model.diffusion_model.{names[name]}": tensor for name, tensor in found.items()}
    return Saved({**kept, "model.diffusion_model.scaled_fp8": marker})


def gpu_order(codes: Tensor) -> Tensor:
    """int32 [tiles,groups,32,4] of codes [out,128·groups], as the loops of torch's CUDA kernel order them.

    `matrix_to_m16n8k16_Bint4_layout`: lane t of a tile reads row t/4; word j of it holds eight codes.
    """
    tiled = codes.view(-1, 8, codes.shape[1] // 128, 128).long()
    words = torch.zeros(len(tiled), tiled.shape[2], 32, 4, dtype=torch.int64)
    for lane in range(32):
        for word in range(4):
            first = 32 * word + 2 * (lane % 4)
            inputs = (first, first + 8, first + 16, first + 24, first + 1, first + 9, first + 17, first + 25)
            for place, column in enumerate(inputs):
                words[:, :, lane, word] |= tiled[:, lane // 4, :, column] << 4 * place
    return words.to(torch.int32)


def _per_row(scheme: str, weight: Tensor) -> tuple[Tensor, Tensor]:
    packed = SCHEMES[scheme].quantize(weight.float())
    return packed["codes" if scheme == "int8" else "values"], packed["scale"][:, None]


def _rowwise(scheme: str, weight: Tensor) -> tuple[dict[str, Tensor], dict[str, object]]:
    values, scale = _per_row(scheme, weight)
    inner = {"qdata": values, "scale": scale}
    if scheme == "int8":
        inner["zero_point"] = torch.zeros(scale.shape, dtype=torch.int8)
    dtype = {"_type": "torch.dtype", "_data": "float32"}
    return inner, {"block_size": [1, weight.shape[1]], "dtype": dtype, "act_quant_kwargs": None}


def _tiles(weight: Tensor) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Padded as torchao pads: outputs to 8, inputs to 1,024."""
    packed = SCHEMES["int4"].quantize(weight.float())
    codes = unpack_codes(packed["packed"]).flatten(1)
    missing = -codes.shape[0] % 8, -codes.shape[1] % 1024
    padded = torch.nn.functional.pad(codes, (0, missing[1], 0, missing[0]))
    scale_zero = packed["scale_zero"].transpose(0, 1)
    padded_scales = torch.nn.functional.pad(scale_zero, (0, 0, 0, missing[0], 0, missing[1] // 128))
    attributes = {"block_size": [1, 128], "shape": list(weight.shape)}
    return {"qdata": gpu_order(padded), "scale_and_zero": padded_scales.contiguous()}, attributes


_INNER: dict[str, Callable[[Tensor], tuple[dict[str, Tensor], dict[str, object]]]] = {
    "int8": lambda weight: _rowwise("int8", weight),
    "fp8": lambda weight: _rowwise("fp8", weight),
    "int4": _tiles,
}
