"""A checkpoint in one safetensors file, as `convert` writes it: config and tokenizer are in the file's metadata.

Metadata are strings by name:
    lumina_mgpt2.format      version of this form, a whole number
    lumina_mgpt2.weights     how the blocks' linear weights are stored: bf16, int8 or int4
    lumina_mgpt2.config      config.json
    lumina_mgpt2.tokenizer   JSON object of the tokenizer's files by name
Tensors have their published names; a quantised `X.weight` is stored as the pieces of its scheme, `X.scale` and so on.
The names of MoVQGAN's tensors, where it is in the file, begin with `movqgan.`.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..quant.schemes import SCHEMES
from .tensors import TensorStore, safetensors_metadata

# 2: another order of 4-bit codes; all else is as in 1.
FORMAT_VERSION, FIRST_OF_INT4 = 2, 2
MOVQGAN_PREFIX = "movqgan."
KEY = "lumina_mgpt2."
PLAIN_WEIGHTS = "bf16"


@dataclass(frozen=True)
class SingleFile:
    """What a converted file's metadata say; `tokenizer` are its files' texts by name."""

    path: Path
    weights: str
    config: dict[str, Any]
    tokenizer: dict[str, str]

    @property
    def scheme(self) -> str | None:
        """The scheme of the blocks' linear weights; None where they are plain."""
        return self.weights if self.weights in SCHEMES else None

    def metadata(self) -> dict[str, str]:
        """The metadata to write."""
        return {
            "format": "pt",
            f"{KEY}format": str(FORMAT_VERSION),
            f"{KEY}weights": self.weights,
            f"{KEY}config": json.dumps(self.config, ensure_ascii=False),
            f"{KEY}tokenizer": json.dumps(self.tokenizer, ensure_ascii=False),
        }


def read_single_file(path: Path) -> SingleFile | None:
    """What a converted file says of itself; None for a safetensors file of another kind.

    Raises CheckpointError for a damaged file, a version that this program does not know, or metadata that make no
    sense.
    """
    metadata = safetensors_metadata(path)
    if f"{KEY}format" not in metadata:
        return None
    weights = metadata.get(f"{KEY}weights")
    _check_version(path, metadata[f"{KEY}format"], FIRST_OF_INT4 if weights == "int4" else 1)
    if weights is None or weights not in (PLAIN_WEIGHTS, *SCHEMES):
        known = ", ".join((PLAIN_WEIGHTS, *SCHEMES))
        raise CheckpointError(f"{path}: its weights are {weights!r}; expected one of {known}: convert it again")
    config, tokenizer = (_json_object(path, metadata, key) for key in ("config", "tokenizer"))
    if not all(isinstance(text, str) for text in tokenizer.values()):
        raise CheckpointError(f"{path}: its tokenizer is no set of texts by name: convert it again")
    return SingleFile(path, weights, config, tokenizer)


def require_single_file(path: Path) -> SingleFile:
    """As `read_single_file`, and raises CheckpointError for a file of another kind."""
    single = read_single_file(path)
    if single is None:
        raise CheckpointError(f"{path} holds no config and tokenizer; expected a file that the command convert made")
    return single


def holds_movqgan(path: Path) -> bool:
    """Whether a converted file has MoVQGAN's tensors in it."""
    return any(name.startswith(MOVQGAN_PREFIX) for name in TensorStore([path]).shapes)


def _check_version(path: Path, text: str, first: int) -> None:
    version = int(text) if re.fullmatch("[0-9]{1,9}", text) else 0
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format {version}, made by a newer version of this program, which reads up to format "
            f"{FORMAT_VERSION}: update it, or convert the checkpoint again"
        )
    if version < first:
        raise CheckpointError(
            f"{path}: its format is {text[:20]!r}; expected {FORMAT_VERSION}: convert the checkpoint again"
        )


def _json_object(path: Path, metadata: dict[str, str], key: str) -> dict[str, Any]:
    try:
        values = json.loads(metadata[KEY + key])
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its {key} cannot be read ({error!r}): convert it again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: its {key} is a JSON {type(values).__name__}, no object: convert it again")
    return values
