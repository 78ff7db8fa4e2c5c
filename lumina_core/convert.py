"""Converts a checkpoint to one file, tensor by tensor; the blocks' linear weights are quantised if requested."""

import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from .checkpoint.codec_identity import IMAGE_CODEC, CodecIdentity
from .checkpoint.find import Checkpoint, open_checkpoint
from .checkpoint.inputs import input_files
from .checkpoint.published import is_block_linear, packed_name, published_shapes
from .checkpoint.single_file import MOVQGAN_PREFIX, PLAIN_WEIGHTS, ROUNDINGS, SingleFile
from .checkpoint.tensor_writer import FileLayout, TensorWriter, lay_out
from .checkpoint.tensors import TensorSpec, TensorStore, dtype_name
from .errors import InputError
from .files.output_files import OutputFiles, check_not_inputs, explain_write_errors, real_path, write_new
from .files.stamps import FileStamps
from .model.load import check_tables, check_weights, packed_tensor_specs
from .movqgan.identity import check_codec
from .movqgan.load import empty_movqgan, read_movqgan
from .quant.schemes import SCHEMES, Int4, Scheme, quantize

CONVERT_WEIGHTS = (*SCHEMES, PLAIN_WEIGHTS)


@dataclass(frozen=True)
class Conversion:
    """A checked conversion. The headers are read; the tensors are not."""

    store: TensorStore
    published: tuple[str, ...]
    scheme: Scheme | None
    device: torch.device | str
    movqgan: Mapping[str, Tensor]
    layout: FileLayout
    sources: FileStamps

    def __len__(self) -> int:
        """Number of tensors that `write` reports."""
        return len(self.published) + len(self.movqgan)

    def write(
        self, out: Path, on_step: Callable[[], object] | None = None, on_chunk: Callable[[int], object] | None = None
    ) -> None:
        """Writes the file `out` completely or not at all.

        Calls `on_step` after each tensor, and `on_chunk` many times a second with the number of values done since; an
        exception that either raises ends the conversion. Raises InputError when the file cannot be written, and
        CheckpointError when a file that is read changes meanwhile. The free disk space is checked first.
        """
        self.check_output(out)
        with OutputFiles() as files:
            files.write(out, lambda file: self._write(file, on_step, on_chunk))
            self.sources.check()

    def write_new(
        self,
        paths: Iterable[Path],
        on_step: Callable[[], object] | None = None,
        on_chunk: Callable[[int], object] | None = None,
    ) -> Path:
        """As `write`, to the first of `paths` where no file is when the content is complete; returns that path."""
        names = iter(paths)
        self.check_output(first := next(names))

        def write(file: BinaryIO) -> None:
            self._write(file, on_step, on_chunk)
            self.sources.check()

        return write_new(itertools.chain([first], names), write)

    def check_output(self, out: Path) -> None:
        """Raises InputError for a wrong suffix, one of the input files, or too little disk space."""
        if out.suffix != ".safetensors":
            raise InputError(f"cannot write {out}: the suffix is {out.suffix!r}; expected .safetensors")
        check_not_inputs([out], self.sources.stamps)
        with explain_write_errors(out):
            free = shutil.disk_usage(real_path(out).parent).free
        if free < self.layout.size:
            raise InputError(
                f"cannot write {out}: it takes {self.layout.size:,} bytes and {free:,} are free; free some "
                "disk space, or choose another folder"
            )

    def _write(
        self, file: BinaryIO, on_step: Callable[[], object] | None, on_chunk: Callable[[int], object] | None
    ) -> None:
        writer = TensorWriter(file, self.layout, on_chunk)
        for tensors in self._steps(on_chunk):
            for name, tensor in tensors.items():
                writer.put(name, tensor)
            if on_step is not None:
                on_step()
        writer.finish()

    def _steps(self, on_chunk: Callable[[int], object] | None) -> Iterator[dict[str, Tensor]]:
        on_part = None if on_chunk is None else partial(on_chunk, 0)
        for name in self.published:
            if self.scheme is not None and is_block_linear(name):
                packed = quantize(self.scheme, self.store.get_alone(name, on_part), self.device, name, on_chunk)
                yield {packed_name(name, key): tensor for key, tensor in packed.items()}
            else:
                yield {name: self.store.get_alone(name, on_part)}
        for name, tensor in self.movqgan.items():
            yield {MOVQGAN_PREFIX + name: tensor}


def plan_conversion(
    checkpoint: str | Path,
    weights: str,
    movqgan: Path | None = None,
    device: torch.device | str = "cpu",
    rounding: str | None = None,
) -> Conversion:
    """The conversion of a checkpoint to `weights`. int8 and int4 change only the blocks' linear weights.

    The file also contains the MoVQGAN, unchanged: `movqgan`, or else the checkpoint's own, if there is one. Weights are
    quantised on `device`, int4 weights with `rounding`: nearest (the default) or hqq. Raises CheckpointError and
    InputError for anything that cannot be converted.
    """
    source = open_checkpoint(checkpoint)
    config, scheme = source.config, _scheme(source, weights, rounding)
    _ = source.vocabulary  # raises for a tokenizer that does not match
    codec, values = movqgan or source.movqgan, dict(source.config_values)
    codec_tensors: dict[str, Tensor] = {}
    if codec is not None:
        codec_tensors, identity = _read_movqgan(codec, source)
        values[IMAGE_CODEC] = identity.values()
    store, published = source.tensors, published_shapes(config)
    check_weights(store, published, None, str(source.path))
    check_tables(store.get, config, str(source.path))
    specs = {**_transformer_specs(store, published, scheme), **_movqgan_specs(codec_tensors)}
    made_by = scheme.rounding if isinstance(scheme, Int4) else None
    single = SingleFile(source.path, weights, values, dict(source.tokenizer_files.texts), made_by)
    sources = FileStamps.of(real_path(path) for path in input_files(source, movqgan))
    return Conversion(
        store, tuple(published), scheme, device, codec_tensors, lay_out(specs, single.metadata()), sources
    )


def _scheme(source: Checkpoint, weights: str, rounding: str | None) -> Scheme | None:
    if weights not in CONVERT_WEIGHTS:
        raise InputError(f"weights is {weights!r}; expected one of {', '.join(CONVERT_WEIGHTS)}")
    if source.scheme is not None:
        raise InputError(
            f"{source.path} is converted to {source.scheme} already; expected the checkpoint that it was converted from"
        )
    scheme = SCHEMES.get(weights)
    if rounding is None:
        return scheme
    if rounding not in ROUNDINGS:
        raise InputError(f"rounding is {rounding!r}; expected one of {', '.join(ROUNDINGS)}")
    if not isinstance(scheme, Int4):
        raise InputError(f"rounding is {rounding} and weights is {weights}; choose int4, or leave rounding out")
    return Int4(rounding=rounding)


def _transformer_specs(
    store: TensorStore, published: Mapping[str, tuple[int, ...]], scheme: Scheme | None
) -> dict[str, TensorSpec]:
    kinds, specs = store.dtypes, dict[str, TensorSpec]()
    for name, shape in published.items():
        if scheme is not None and is_block_linear(name):
            specs |= packed_tensor_specs(name, shape, scheme)
        else:
            specs[name] = TensorSpec("BF16" if scheme is None else kinds[name], shape)
    return specs


def _movqgan_specs(tensors: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    return {
        MOVQGAN_PREFIX + name: TensorSpec(dtype_name(tensor.dtype), tuple(tensor.shape))
        for name, tensor in tensors.items()
    }


def _read_movqgan(path: Path, source: Checkpoint) -> tuple[dict[str, Tensor], CodecIdentity]:
    tensors = read_movqgan(path, source)
    config = empty_movqgan(tensors, str(path)).config
    check_codec(source.config, config, tensors, str(path))
    return tensors, CodecIdentity.of(config.channels, config.multipliers, tensors)
