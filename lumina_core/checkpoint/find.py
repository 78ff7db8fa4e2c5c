"""Finds the files of a checkpoint and opens them: config, tokenizer and tensor headers."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..tokens.tokenizer import (
    TOKENIZER,
    Tokenizer,
    TokenizerFiles,
    make_tokenizer,
    read_tokenizer_files,
    tokenizer_paths,
)
from ..tokens.vocabulary import Vocabulary
from .config import TransformerConfig
from .published import NORM
from .single_file import MOVQGAN_PREFIX, SingleFile, read_single_file
from .tensors import TensorStore, read_json

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parents[1] / "demo"
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
MOVQGAN_NAMES = ("movqgan.safetensors", "movqgan_270M.ckpt", "movqgan_270M.safetensors", "movqgan.ckpt")


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint. Opening reads the tensor headers and no weights.

    `path` is the folder or the converted file. `single` is the metadata of a converted file, None for the published
    layout. `movqgan` is the file with the MoVQGAN, if there is one.
    """

    path: Path
    tensors: TensorStore
    movqgan: Path | None
    single: SingleFile | None

    @property
    def scheme(self) -> str | None:
        """The quantisation scheme of the blocks' linear weights, None where they are not quantised."""
        return None if self.single is None else self.single.scheme

    @property
    def config_path(self) -> Path:
        return self.path if self.single is not None else self._root / CONFIG

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the transformer and its tokenizer."""
        others = () if self.single else (self.config_path, *tokenizer_paths(self._root / TOKENIZER))
        return (*self.tensors.paths, *others)

    @cached_property
    def config_values(self) -> dict[str, Any]:
        """The raw values of config.json. Raises CheckpointError when the file holds no JSON object."""
        return read_json(self.config_path) if self.single is None else self.single.config

    @cached_property
    def config(self) -> TransformerConfig:
        """The config. Raises CheckpointError when it is not supported."""
        return TransformerConfig.from_dict(self.config_values, str(self.config_path))

    @cached_property
    def tokenizer_files(self) -> TokenizerFiles:
        return _tokenizer_files(self.single) if self.single else read_tokenizer_files(self._root)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises CheckpointError when it is of another model."""
        return make_tokenizer(self.tokenizer_files)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The picture tokens. Raises CheckpointError when tokenizer and config do not match."""
        return Vocabulary.of(self.tokenizer, self.config)

    @property
    def _root(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Opens a checkpoint: the published folder, a folder with one weight file, a single `.safetensors`, or "demo".

    config.json and tokenizer.json are in the same folder as the weights; a converted file contains its own. Raises
    CheckpointError when a file is missing or damaged.
    """
    place = DEMO_FOLDER if str(path) == DEMO else Path(path)
    if place.is_dir():
        root, shards = place, _shards(place)
    elif place.is_file() and place.suffix == ".safetensors":
        root, shards = place.parent, (place,)
    else:
        raise CheckpointError(
            f"checkpoint {path} does not exist or is of another type; expected a folder, a .safetensors file or 'demo'"
        )
    tensors = TensorStore(shards)
    single = read_single_file(shards[0], tensors.metadata) if len(shards) == 1 else None
    if single is not None:
        holds_movqgan = any(name.startswith(MOVQGAN_PREFIX) for name in tensors.shapes)
        return Checkpoint(shards[0], tensors, shards[0] if holds_movqgan else find_movqgan(root), single)
    if not (root / CONFIG).is_file():
        raise CheckpointError(
            f"{root / CONFIG} is missing; download it with the checkpoint (only a file written by the command convert "
            "needs none)"
        )
    return Checkpoint(place, tensors, find_movqgan(root), None)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a checkpoint folder, of a `tokenizer.json` and the files next to it, or of a converted file.

    Raises CheckpointError when a file is missing or damaged, or when a token of the model is missing.
    """
    place = DEMO_FOLDER if str(path) == DEMO else Path(path)
    if place.suffix != ".safetensors" or not place.is_file():
        return make_tokenizer(read_tokenizer_files(place))
    single = read_single_file(place, TensorStore([place]).metadata)
    if single is None:
        raise CheckpointError(f"{place} contains no tokenizer; expected a file written by the command convert")
    return make_tokenizer(_tokenizer_files(single))


def find_movqgan(folder: Path) -> Path | None:
    """The MoVQGAN file of a folder: one of MOVQGAN_NAMES, or else the only `movqgan*` file, or else None."""
    usual = [folder / name for name in MOVQGAN_NAMES if (folder / name).is_file()]
    others = sorted(folder.glob("movqgan*.safetensors")) + sorted(folder.glob("movqgan*.ckpt"))
    if usual:
        return usual[0]
    return others[0] if len(others) == 1 else None


def nearby_files(checkpoint: Checkpoint) -> list[Path]:
    """The `.safetensors` files in a checkpoint's folder and the one above it, without its own."""
    folder = checkpoint.config_path.resolve().parent
    own = {path.resolve() for path in checkpoint.tensors.paths}
    files = [file for place in (folder, folder.parent) for file in sorted(place.glob("*.safetensors"))]
    return [file for file in files if file not in own]


def find_converted(checkpoint: Checkpoint, scheme: str, files: Iterable[Path]) -> Path | None:
    """The first of the files that is a plain checkpoint converted to a scheme: one with the same config and norm."""
    for file in files:
        with contextlib.suppress(CheckpointError, KeyError):  # damaged, or without that norm
            other = open_checkpoint(file)
            same = other.scheme == scheme and other.config_values == checkpoint.config_values
            if same and torch.equal(other.tensors.get(NORM), checkpoint.tensors.get(NORM)):
                return file
    return None


def _tokenizer_files(single: SingleFile) -> TokenizerFiles:
    return TokenizerFiles(single.path, single.tokenizer)


def _shards(folder: Path) -> tuple[Path, ...]:
    if (folder / INDEX).is_file():
        return _indexed_shards(folder)
    whole = folder / "model.safetensors"
    if whole.is_file():
        return (whole,)
    files = [file for file in sorted(folder.glob("*.safetensors")) if not file.name.startswith("movqgan")]
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise CheckpointError(f"{folder} has no {INDEX}; expected it, or exactly one .safetensors file; found {found}")
    return (files[0],)


def _indexed_shards(folder: Path) -> tuple[Path, ...]:
    index = read_json(folder / INDEX).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
        raise CheckpointError(f"{folder / INDEX} has no `weight_map` of tensor names to files; download it again")
    names = sorted(set(index.values()))
    if outside := [name for name in names if not name or Path(name).name != name]:
        raise CheckpointError(f"{folder / INDEX} lists {outside[0]!r}; expected names of files in the same folder")
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise CheckpointError(f"shards missing in {folder}: {', '.join(missing)}; download them again")
    return tuple(folder / name for name in names)
