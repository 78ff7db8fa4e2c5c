"""A converted checkpoint: one safetensors file whose metadata hold config and tokenizer.

Metadata are strings by name:
    lumina_mgpt2.format      version of the format, a whole number
    lumina_mgpt2.weights     the blocks' linear weights: bf16, int8 or int4
    lumina_mgpt2.config      config.json
    lumina_mgpt2.tokenizer   JSON object of the tokenizer's files by name
Tensors have their published names; a quantised `X.weight` is stored as its packed tensors, `X.scale` and so on. The
names of MoVQGAN's tensors, where the file holds it, begin with `movqgan.`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

# Version 2 has another order of 4-bit codes; the rest is as in 1.
FORMAT_VERSION, FIRST_OF_INT4 = 2, 2
MOVQGAN_PREFIX = "movqgan."
KEY = "lumina_mgpt2."
PLAIN_WEIGHTS, QUANTISED_WEIGHTS = "bf16", ("int8", "int4")


@dataclass(frozen=True)
class SingleFile:
    """The metadata of a converted file; `tokenizer` holds the texts of its files by name."""

    path: Path
    weights: str
    config: dict[str, Any]
    tokenizer: dict[str, str]

    @property
    def scheme(self) -> str | None:
        """The scheme of the blocks' linear weights, None where they are not quantised."""
        return self.weights if self.weights in QUANTISED_WEIGHTS else None

    def metadata(self) -> dict[str, str]:
        """The metadata to write."""
        return {
            "format": "pt",
            f"{KEY}format": str(FORMAT_VERSION),
            f"{KEY}weights": self.weights,
            f"{KEY}config": json.dumps(self.config, ensure_ascii=False),
            f"{KEY}tokenizer": json.dumps(self.tokenizer, ensure_ascii=False),
        }


def read_single_file(path: Path, metadata: Mapping[str, str]) -> SingleFile | None:
    """The metadata of a converted file; None for a safetensors file of another kind.

    Raises CheckpointError for an unknown version and for metadata that are incomplete or damaged.
    """
    if f"{KEY}format" not in metadata:
        return None
    weights = metadata.get(f"{KEY}weights")
    _check_version(path, metadata[f"{KEY}format"], FIRST_OF_INT4 if weights == "int4" else 1)
    if weights is None or weights not in (PLAIN_WEIGHTS, *QUANTISED_WEIGHTS):
        known = ", ".join((PLAIN_WEIGHTS, *QUANTISED_WEIGHTS))
        raise CheckpointError(f"{path}: its weights are {weights!r}; expected one of {known}: convert it again")
    config, tokenizer = (_json_object(path, metadata, key) for key in ("config", "tokenizer"))
    if not all(isinstance(text, str) for text in tokenizer.values()):
        raise CheckpointError(f"{path}: its tokenizer is no set of texts by name: convert it again")
    return SingleFile(path, weights, config, tokenizer)


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


def _json_object(path: Path, metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    try:
        values = json.loads(metadata[KEY + key])
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its {key} cannot be read ({error!r}): convert it again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: its {key} is a JSON {type(values).__name__}, no object: convert it again")
    return values
