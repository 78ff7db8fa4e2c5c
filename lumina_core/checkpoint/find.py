"""Finds the files of a checkpoint and opens them: config, tokenizer and tensor headers."""

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..files.json_text import read_json
from ..files.kind import SAFETENSORS, look_at
from ..files.stamps import FileStamps
from ..tokens.tokenizer import (
    TOKENIZER,
    Tokenizer,
    TokenizerFiles,
    make_tokenizer,
    read_tokenizer_files,
    tokenizer_paths,
)
from ..tokens.vocabulary import Vocabulary
from .codec_identity import IMAGE_CODEC
from .config import TransformerConfig
from .diagnosis import check_sizes
from .hub_cache import snapshot
from .locate import CONFIG, DEMO, DEMO_FOLDER, find_movqgan, locate
from .published import NORM
from .single_file import MOVQGAN_PREFIX, SingleFile, read_single_file
from .tensor_files import SAFE_SUFFIXES
from .tensors import TensorStore


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint. Opening reads the tensor headers and no weights.

    `path` is the folder or the file, `root` the folder of config.json and tokenizer. `single` is the metadata of a
    converted file, None for the published layout. `movqgan` is the file with the MoVQGAN, if there is one. `stamps` are
    of the files with tensors, which stay mapped.
    """

    path: Path
    root: Path
    tensors: TensorStore
    movqgan: Path | None
    single: SingleFile | None
    stamps: FileStamps

    @property
    def scheme(self) -> str | None:
        """The quantisation scheme of the blocks' linear weights, None where they are not quantised."""
        return self.tensors.scheme if self.single is None or self.single.scheme is None else self.single.scheme

    @property
    def stored_weights(self) -> str:
        """How the blocks' linear weights are stored, in words: their scheme, and what wrote it."""
        if self.scheme is None:
            return "not quantised"
        rounding = "" if self.single is None or self.single.rounding is None else f", rounding {self.single.rounding}"
        return f"{self.scheme} ({self.tensors.form or 'converted'}{rounding})"

    @property
    def config_path(self) -> Path:
        return self.path if self.single is not None else self.root / CONFIG

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the transformer and its tokenizer."""
        others = () if self.single else (self.config_path, *tokenizer_paths(self.root / TOKENIZER))
        return (*self.tensors.paths, *others)

    @cached_property
    def config_values(self) -> dict[str, Any]:
        """The raw values of config.json. Raises CheckpointError when the file holds no JSON object."""
        if self.single is not None:
            return self.single.config
        return read_json(self.config_path, CheckpointError, "the config.json of the checkpoint")

    @cached_property
    def config(self) -> TransformerConfig:
        """The config. Raises CheckpointError when it is not supported, or not of these tensors."""
        config = TransformerConfig.from_dict(self.config_values, str(self.config_path))
        check_sizes(self.tensors.shapes, config, str(self.path))
        return config

    @cached_property
    def tokenizer_files(self) -> TokenizerFiles:
        return _tokenizer_files(self.single) if self.single else read_tokenizer_files(self.root)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises CheckpointError when it is of another model."""
        return make_tokenizer(self.tokenizer_files)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The picture tokens. Raises CheckpointError when tokenizer and config do not match."""
        return Vocabulary.of(self.tokenizer, self.config, self.config_values.get("vocabulary_map"))


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Opens a checkpoint: what `locate` finds under a name.

    config.json and tokenizer.json are in the same folder as the weights; a converted file contains its own. Raises
    CheckpointError when a file is missing or damaged.
    """
    place = locate(path)
    stamps, tensors = FileStamps.of(place.files), TensorStore(place.files)
    single = read_single_file(place.files[0], tensors.metadata) if len(place.files) == 1 else None
    if single is not None:
        holds_movqgan = any(name.startswith(MOVQGAN_PREFIX) for name in tensors.shapes)
        movqgan = place.files[0] if holds_movqgan else find_movqgan(place.root)
        return Checkpoint(place.files[0], place.root, tensors, movqgan, single, stamps)
    if not os.path.lexists(place.root / CONFIG):
        raise CheckpointError(
            f"{place.root / CONFIG} is missing; download it with the checkpoint (only a file written by the command "
            "convert needs none)"
        )
    return Checkpoint(place.named, place.root, tensors, find_movqgan(place.root), None, stamps)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a checkpoint folder, of a `tokenizer.json` and the files next to it, or of a converted file.

    Raises CheckpointError when a file is missing or damaged, or when a token of the model is missing.
    """
    place = DEMO_FOLDER if str(path) == DEMO else Path(path)
    if not place.is_file() or look_at(place, CheckpointError, "a tokenizer.json").name != SAFETENSORS:
        return make_tokenizer(read_tokenizer_files(snapshot(place) or place))
    single = read_single_file(place, TensorStore([place]).metadata)
    if single is None:
        raise CheckpointError(f"{place} contains no tokenizer; expected a file written by the command convert")
    return make_tokenizer(_tokenizer_files(single))


def nearby_files(checkpoint: Checkpoint) -> list[Path]:
    """The `.safetensors` files in a checkpoint's folder and the one above it, without its own."""
    folder = checkpoint.config_path.resolve().parent
    own = {path.resolve() for path in checkpoint.tensors.paths}
    files = [file for place in (folder, folder.parent) for file in sorted(place.glob("*"))]
    return [file for file in files if file.suffix.lower() in SAFE_SUFFIXES and file not in own]


def find_converted(checkpoint: Checkpoint, scheme: str, files: Iterable[Path]) -> Path | None:
    """The first of the files that is a plain checkpoint converted to a scheme: one with the same config and norm."""
    for file in files:
        with contextlib.suppress(CheckpointError, KeyError):  # damaged, or without that norm
            other = open_checkpoint(file)
            converted = other.single is not None and other.single.scheme == scheme
            same = converted and _without_codec(other) == _without_codec(checkpoint)
            if same and torch.equal(other.tensors.get(NORM), checkpoint.tensors.get(NORM)):
                return file
    return None


def _without_codec(checkpoint: Checkpoint) -> dict[str, Any]:
    """The config, without what a conversion adds."""
    return {key: value for key, value in checkpoint.config_values.items() if key != IMAGE_CODEC}


def _tokenizer_files(single: SingleFile) -> TokenizerFiles:
    return TokenizerFiles(single.path, single.tokenizer)
