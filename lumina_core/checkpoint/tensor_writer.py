"""Writes a safetensors file one tensor at a time, so that the model need not fit in memory."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files.kind import MAX_HEADER_BYTES
from .tensors import DTYPES, TensorSpec

SLICE_BYTES = 2**25


@dataclass(frozen=True)
class FileLayout:
    """The layout of a file: header bytes, each tensor's offset from the end of the header, total size in bytes."""

    specs: Mapping[str, TensorSpec]
    header: bytes
    offsets: Mapping[str, int]
    size: int


def lay_out(specs: Mapping[str, TensorSpec], metadata: Mapping[str, str]) -> FileLayout:
    """The layout of a file (github.com/huggingface/safetensors, "Format"). Wider dtypes come first, so all are aligned.

    Raises CheckpointError when the header is larger than readers accept.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offsets, end = {}, 0
    for name in sorted(specs, key=lambda name: (-specs[name].item_bytes, name)):
        spec, offsets[name] = specs[name], end
        end += spec.nbytes
        header[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [offsets[name], end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"config and tokenizer make a header of {len(text):,} bytes; expected at most {MAX_HEADER_BYTES:,} in a "
            ".safetensors file: check that tokenizer.json is the model's own"
        )
    prefix = len(text).to_bytes(8, "little") + text
    return FileLayout(specs, prefix, offsets, len(prefix) + end)


class TensorWriter:
    """Writes tensors into a file of a known layout, in any order. `finish` checks that all are written.

    `on_slice` is called after every SLICE_BYTES with its number of values; an exception that it raises passes through.
    """

    def __init__(self, file: BinaryIO, layout: FileLayout, on_slice: Callable[[int], object] | None = None):
        self._file, self._layout, self._on_slice = file, layout, on_slice
        self._missing = set(layout.specs)
        file.write(layout.header)

    def put(self, name: str, tensor: Tensor) -> None:
        """Writes a tensor in the dtype of the layout, slice by slice."""
        spec = self._layout.specs[name]
        assert tuple(tensor.shape) == spec.shape, f"{name} has shape {tuple(tensor.shape)}, expected {spec.shape}"
        self._missing.remove(name)
        self._file.seek(len(self._layout.header) + self._layout.offsets[name])
        for part in tensor.reshape(-1).split(SLICE_BYTES // spec.item_bytes):
            values = part.to(device="cpu", dtype=DTYPES[spec.dtype]).contiguous()
            self._file.write(memoryview(values.view(torch.uint8).numpy()))
            if self._on_slice is not None:
                self._on_slice(part.numel())

    def finish(self) -> None:
        assert not self._missing, f"never written: {sorted(self._missing)[:5]}"
