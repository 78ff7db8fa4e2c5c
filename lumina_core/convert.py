"""A checkpoint into one file, its blocks' linear weights quantised or not, passing through tensor by tensor."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from .checkpoint.find import Checkpoint, open_checkpoint
from .checkpoint.output_files import OutputFiles, explained, target_of
from .checkpoint.single_file import MOVQGAN_PREFIX, PLAIN_WEIGHTS, SingleFile
from .checkpoint.tensor_writer import FileLayout, TensorWriter, lay_out
from .checkpoint.tensors import TensorSpec, TensorStore, dtype_name
from .errors import InputError
from .model.load import published_shapes
from .model.source import WeightSource, is_block_linear, piece_name, piece_specs
from .movqgan.load import empty_movqgan, read_movqgan
from .pictures.sizes import CODE_PIXELS
from .quant.schemes import SCHEMES, Scheme, quantize

CONVERT_WEIGHTS = (*SCHEMES, PLAIN_WEIGHTS)


@dataclass(frozen=True)
class Conversion:
    """A conversion that was found possible: everything is read but the numbers."""

    store: TensorStore
    published: tuple[str, ...]
    scheme: Scheme | None
    device: torch.device | str
    movqgan: Mapping[str, Tensor]
    layout: FileLayout
    sources: frozenset[Path]

    def __len__(self) -> int:
        """Steps that `write` reports."""
        return len(self.published) + len(self.movqgan)

    def write(self, out: Path, on_step: Callable[[], object] | None = None) -> None:
        """Makes the file `out`, whole or not at all; `on_step` is called after each tensor that was read.

        Raises InputError when it cannot be written there; a full disk is noticed before the work.
        """
        self.check_place(out)
        with OutputFiles() as files:
            files.write(out, lambda file: self._write(file, on_step))

    def check_place(self, out: Path) -> None:
        """Raises InputError for a place that the file cannot go to, or that has no room for it."""
        if out.suffix != ".safetensors":
            raise InputError(f"cannot write {out}: its suffix is {out.suffix!r}; expected .safetensors")
        if target_of(out) in self.sources:
            raise InputError(f"cannot write {out}: it is one of the files to convert; choose another name")
        with explained(out):
            free = shutil.disk_usage(target_of(out).parent).free
        if free < self.layout.size:
            raise InputError(
                f"cannot write {out}: it takes {self.layout.size:,} bytes and {free:,} are free; make room, or choose "
                "another folder"
            )

    def _write(self, file: BinaryIO, on_step: Callable[[], object] | None) -> None:
        writer = TensorWriter(file, self.layout)
        for tensors in self._steps():
            for name, tensor in tensors.items():
                writer.put(name, tensor)
            if on_step is not None:
                on_step()
        writer.finish()

    def _steps(self) -> Iterator[dict[str, Tensor]]:
        for name in self.published:
            if self.scheme is not None and is_block_linear(name):
                pieces = quantize(self.scheme, self.store.get_alone(name), self.device, name)
                yield {piece_name(name, key): piece for key, piece in pieces.items()}
            else:
                yield {name: self.store.get_alone(name)}
        for name, tensor in self.movqgan.items():
            yield {MOVQGAN_PREFIX + name: tensor}


def plan_conversion(
    checkpoint: str | Path, weights: str, movqgan: Path | None = None, device: torch.device | str = "cpu"
) -> Conversion:
    """A checkpoint's conversion to `weights`; int8 and int4 leave all but the blocks' linear weights as they are.

    The MoVQGAN goes in as it is: `movqgan`, or else the checkpoint's own, if it has one. Numbers are worked out on
    `device`. Raises CheckpointError and InputError for anything that cannot be converted.
    """
    source = open_checkpoint(checkpoint)
    config, scheme = source.config, _scheme(source, weights)
    _ = source.vocabulary  # raises where tokenizer and config do not fit
    codec = movqgan or source.movqgan
    codec_tensors = {} if codec is None else _read_movqgan(codec, source)
    store, published = source.tensors, published_shapes(config)
    WeightSource(store, published, None, scheme, device).check(str(source.path))
    specs = {**_transformer_specs(store, published, scheme), **_movqgan_specs(codec_tensors)}
    single = SingleFile(source.path, weights, source.config_values, dict(source.tokenizer_files.texts))
    sources = frozenset(target_of(path) for path in (*store.paths, codec) if path is not None)
    return Conversion(
        store, tuple(published), scheme, device, codec_tensors, lay_out(specs, single.metadata()), sources
    )


def _scheme(source: Checkpoint, weights: str) -> Scheme | None:
    if weights not in CONVERT_WEIGHTS:
        raise InputError(f"weights is {weights!r}; expected one of {', '.join(CONVERT_WEIGHTS)}")
    if source.scheme is not None:
        raise InputError(
            f"{source.path} is converted to {source.scheme} already, which cannot be undone; convert the checkpoint "
            "that it was made from"
        )
    return SCHEMES.get(weights)


def _transformer_specs(
    store: TensorStore, published: Mapping[str, tuple[int, ...]], scheme: Scheme | None
) -> dict[str, TensorSpec]:
    kinds, specs = store.dtypes, dict[str, TensorSpec]()
    for name, shape in published.items():
        if scheme is not None and is_block_linear(name):
            specs |= {piece_name(name, key): spec for key, spec in piece_specs(name, shape, scheme).items()}
        else:
            specs[name] = TensorSpec("BF16" if scheme is None else kinds[name], shape)
    return specs


def _movqgan_specs(tensors: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    return {
        MOVQGAN_PREFIX + name: TensorSpec(dtype_name(tensor.dtype), tuple(tensor.shape))
        for name, tensor in tensors.items()
    }


def _read_movqgan(path: Path, source: Checkpoint) -> dict[str, Tensor]:
    tensors = read_movqgan(path, source)
    empty_movqgan(tensors, str(path)).config.check_codes(source.config.codebook_size, CODE_PIXELS, str(path))
    return tensors
