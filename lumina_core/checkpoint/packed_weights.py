"""Weights that another program quantised, read as the packed tensors of our own schemes, with the same values.

Packed tensors have a row for each output, and are computed some rows at a time from what the files hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import CheckpointError
from .tensor_files import Shape, TensorFile

GROUP = 128
# What the dequantised weight is read as.
WEIGHT = "weight"
# The dtype of a scheme's values [out,in] in a file, and the packed tensor that holds them.
PER_ROW = {"int8": ("I8", "codes"), "fp8": ("F8_E4M3", "values")}
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Weights that are dequantised at a time.
ELEMENTS = 2**24
# A tile of torch's order of 4-bit codes on NVIDIA GPUs: 8 outputs and 128 inputs in 32 times 4 words of 32 bits.
_TILE_ROWS, _TILE_WORDS = 8, (32, 4)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file."""

    file: TensorFile
    name: str

    @property
    def dtype(self) -> str:
        return self.file.dtypes[self.name]

    @property
    def shape(self) -> Shape:
        return self.file.shapes[self.name]

    def rows(self, rows: slice) -> Tensor:
        """Some rows; all of them are not copied."""
        return self.file.get(self.name) if rows == slice(None) else self.file.get_rows(self.name, rows)

    def check_dtype(self, *expected: str) -> None:
        """Raises CheckpointError for another dtype than those expected."""
        if self.dtype not in expected:
            one_of = "" if len(expected) == 1 else "one of "
            raise CheckpointError(
                f"{self.file.path}: `{self.name}` holds {self.dtype}, expected {one_of}{', '.join(expected)}: quantise "
                "the checkpoint again"
            )


@dataclass(frozen=True)
class Computed:
    """A tensor's dtype (its safetensors name), its shape, and the function that computes rows of it."""

    dtype: str
    shape: Shape
    rows: Callable[[slice], Tensor]


class PackedWeight(TensorFile):
    """A weight [out,in] in a scheme: its packed tensors by their keys, and under WEIGHT the dequantised weight."""

    def __init__(self, source: StoredTensor, scheme: str, tensors: dict[str, Computed]):
        self.path, self.scheme, self._tensors, self.metadata = source.file.path, scheme, tensors, {}
        self.dtypes = {key: one.dtype for key, one in tensors.items()}
        self.shapes = {key: one.shape for key, one in tensors.items()}

    @property
    def packed_keys(self) -> list[str]:
        return [key for key in self._tensors if key != WEIGHT]

    def get(self, name: str) -> Tensor:
        return self._tensors[name].rows(slice(None))

    def get_rows(self, name: str, rows: slice) -> Tensor:
        return self._tensors[name].rows(rows)


def per_row(scheme: str, values: StoredTensor, scale: StoredTensor, dtype: str = "BF16") -> PackedWeight:
    """int8 or fp8: values [out,in] times a scale for each row, [out] or [out,1], or one for all rows.

    `dtype` is that of the dequantised weight. Raises CheckpointError for other shapes and dtypes.
    """
    stored_dtype, key = PER_ROW[scheme]
    values.check_dtype(stored_dtype)
    _check_scale(values, scale)
    rows = values.shape[:1]

    def rows_and_scales(part: slice) -> tuple[Tensor, Tensor]:
        scales = scale.rows(slice(None)).float().reshape(-1).expand(rows)[part]
        return _without_nan_rows(values.rows(part), scales)

    def dequantise(part: slice) -> Tensor:
        found, scales = rows_and_scales(part)
        return found.float().mul_(scales[:, None])

    tensors = {
        key: Computed(stored_dtype, values.shape, lambda part: rows_and_scales(part)[0]),
        "scale": Computed("F32", rows, lambda part: rows_and_scales(part)[1].contiguous()),
        WEIGHT: _dequantised(dtype, values.shape, dequantise),
    }
    return PackedWeight(values, scheme, tensors)


def _check_scale(values: StoredTensor, scale: StoredTensor) -> None:
    scale.check_dtype(*FLOATS)
    rows = values.shape[:1]
    if len(values.shape) != 2:
        raise _misshapen(values, "[outputs, inputs]")
    if scale.shape not in (rows, (*rows, 1)) and math.prod(scale.shape) != 1:
        raise _misshapen(scale, f"one scale, or one for each of the {rows[0]:,} rows of `{values.name}`")


def _without_nan_rows(values: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Values [out,in] and scales [out], with zeros and a scale that counts in rows of NaN whose scale is 0.

    torchao stores a row of zeros so in float8: it divides the row by its largest magnitude.
    """
    if not bool((scale == 0).any()):
        return values, scale
    empty = (scale == 0) & values.float().isnan().all(1)
    kept = torch.where(empty[:, None], 0, values.view(torch.uint8)).view(values.dtype)
    return kept, torch.where(empty, torch.finfo(torch.float32).tiny, scale)


def int4_tiles(codes: StoredTensor, scale_zero: StoredTensor, shape: Shape) -> PackedWeight:
    """int4 of a weight of `shape` [out,in]: codes in the order of torch's `_convert_weight_to_int4pack` on NVIDIA GPUs.

    `codes` int32 [tiles of 8 outputs, tiles of 128 inputs, 32, 4], `scale_zero` bfloat16 [groups,outputs,2]; both may
    be padded. Raises CheckpointError for other shapes and dtypes.
    """
    _check_tiles(codes, scale_zero, shape)
    outputs, groups = shape[0], -(-shape[1] // GROUP)

    def packed_rows(part: slice) -> Tensor:
        first, end, _ = part.indices(outputs)
        tiles = slice(first // _TILE_ROWS, -(-end // _TILE_ROWS))
        start = tiles.start * _TILE_ROWS
        return from_gpu_order(codes.rows(tiles)[:, :groups])[first - start : end - start].contiguous()

    def scale_zero_rows(part: slice) -> Tensor:
        return scale_zero.rows(slice(None))[:groups, :outputs].transpose(0, 1)[part].contiguous()

    def dequantise(part: slice) -> Tensor:
        scale, zero = scale_zero_rows(part).float().split(1, -1)
        return _codes(packed_rows(part)).sub_(8).mul_(scale).add_(zero).flatten(1)[:, : shape[1]]

    tensors = {
        "packed": Computed("U8", (outputs, groups * GROUP // 2), packed_rows),
        "scale_zero": Computed("BF16", (outputs, groups, 2), scale_zero_rows),
        WEIGHT: _dequantised("BF16", shape, dequantise),
    }
    return PackedWeight(codes, "int4", tensors)


def _check_tiles(codes: StoredTensor, scale_zero: StoredTensor, shape: Shape) -> None:
    codes.check_dtype("I32")
    scale_zero.check_dtype("BF16")
    outputs, groups = shape[0], -(-shape[1] // GROUP)
    if codes.shape[2:] != _TILE_WORDS or codes.shape[0] * _TILE_ROWS < outputs or codes.shape[1] < groups:
        raise _misshapen(codes, f"at least [{-(-outputs // _TILE_ROWS)}, {groups}, 32, 4] for a weight {list(shape)}")
    if scale_zero.shape[2:] != (2,) or scale_zero.shape[0] < groups or scale_zero.shape[1] < outputs:
        raise _misshapen(scale_zero, f"at least [{groups}, {outputs}, 2] for a weight {list(shape)}")


def from_gpu_order(words: Tensor) -> Tensor:
    """Bytes [outputs,groups·64] of 4-bit codes in our order, of words in torch's order [tiles,groups,32,4].

    Word j of lane 4·row + s holds, from its lowest bits on, the code of input 32·j + 8·i + 2·s for i = 0 to 3, and then
    the codes of the inputs after each of them (torch's `matrix_to_m16n8k16_Bint4_layout` for CUDA; ROCm has another
    order). In our order, word 4·i + s holds the codes i of the four words, and those that follow (`unpack_codes`).
    """
    tiles, groups = words.shape[:2]
    lanes = words.view(tiles, groups, _TILE_ROWS, 4, 4).transpose(1, 2)
    by_word = [lanes[..., j].contiguous() for j in range(4)]
    ordered = torch.zeros(tiles, _TILE_ROWS, groups, 4, 4, dtype=torch.int32)
    for i in range(4):
        for j, word in enumerate(by_word):
            ordered[..., i, :] |= (word >> 4 * i & 0x000F000F) << 4 * j
    return ordered.view(torch.uint8).view(tiles * _TILE_ROWS, groups * GROUP // 2)


def _codes(packed: Tensor) -> Tensor:
    """Codes in float32 [outputs,groups,128] of bytes in our order."""
    by_words = packed.view(len(packed), -1, 16, 2, 2)
    halves = torch.stack((by_words & 0x0F, by_words >> 4), -1)
    return halves.permute(0, 1, 4, 5, 2, 3).flatten(2).float()


def _dequantised(dtype: str, shape: Shape, dequantise: Callable[[slice], Tensor]) -> Computed:
    """The dequantised weight, computed in float32 some rows at a time."""

    def rows(part: slice) -> Tensor:
        first, end, _ = part.indices(shape[0])
        weight = torch.empty(end - first, shape[1], dtype=FLOATS[dtype])
        step = max(1, ELEMENTS // max(1, shape[1]))
        for start in range(first, end, step):
            some = slice(start, min(start + step, end))
            weight[some.start - first : some.stop - first].copy_(dequantise(some))
        return weight

    return Computed(dtype, shape, rows)


def _misshapen(tensor: StoredTensor, expected: str) -> CheckpointError:
    return CheckpointError(
        f"{tensor.file.path}: `{tensor.name}` has shape {list(tensor.shape)}, expected {expected}: quantise the "
        "checkpoint again"
    )
