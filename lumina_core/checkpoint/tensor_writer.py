"""A safetensors file written tensor by tensor, so that its tensors never have to be in memory together."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

import torch
from torch import Tensor

from ..errors import CheckpointError
from .tensors import DTYPES, TensorSpec

MAX_HEADER_BYTES = 100_000_000
SLICE_BYTES = 2**25


@dataclass(frozen=True)
class FileLayout:
    """Where everything lies in a file: the header's bytes, each tensor's offset behind it, the size of the whole."""

    specs: Mapping[str, TensorSpec]
    header: bytes
    offsets: Mapping[str, int]
    size: int


def lay_out(specs: Mapping[str, TensorSpec], metadata: Mapping[str, str]) -> FileLayout:
    """The layout of a file (github.com/huggingface/safetensors, "Format"): widest numbers first, so all are aligned.

    Raises CheckpointError when the header would be larger than readers accept.
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
            f"config and tokenizer make a header of {len(text):,} bytes; a .safetensors file holds at most "
            f"{MAX_HEADER_BYTES:,}: check that tokenizer.json is the model's own"
        )
    front = len(text).to_bytes(8, "little") + text
    return FileLayout(specs, front, offsets, len(front) + end)


class TensorWriter:
    """Puts tensors into a file of a known layout, in any order; `finish` when all are in."""

    def __init__(self, file: BinaryIO, layout: FileLayout):
        self._file, self._layout = file, layout
        self._missing = set(layout.specs)
        file.write(layout.header)

    def put(self, name: str, tensor: Tensor) -> None:
        """Writes a tensor, in the number format of the layout, a slice at a time."""
        spec = self._layout.specs[name]
        assert tuple(tensor.shape) == spec.shape, f"{name} has shape {tuple(tensor.shape)}, laid out {spec.shape}"
        self._missing.remove(name)
        self._file.seek(len(self._layout.header) + self._layout.offsets[name])
        for part in tensor.reshape(-1).split(SLICE_BYTES // spec.item_bytes):
            numbers = part.to(device="cpu", dtype=DTYPES[spec.dtype]).contiguous()
            self._file.write(memoryview(numbers.view(torch.uint8).numpy()))

    def finish(self) -> None:
        assert not self._missing, f"never written: {sorted(self._missing)[:5]}"
