"""A converted checkpoint: one safetensors file whose metadata contain config and tokenizer.

Metadata, all strings:
    lumina_mgpt2.format      version of the file format, an integer
    lumina_mgpt2.weights     the blocks' linear weights: bf16, int8, int4, fp8 or int8-dynamic
    lumina_mgpt2.rounding    of int4 weights, how they were quantised: nearest (as where it is missing) or hqq
    lumina_mgpt2.config      content of config.json
    lumina_mgpt2.tokenizer   JSON object: file name to text, for each tokenizer file
Tensors have their published names. A quantised `X.weight` is stored as its packed tensors, `X.scale` and so on. The
MoVQGAN is optional; the names of its tensors begin with `movqgan.`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..files.json_text import parse_json

# Version 2 changes the order of the 4-bit codes and nothing else.
FORMAT_VERSION, FIRST_INT4_VERSION = 2, 2
MOVQGAN_PREFIX = "movqgan."
KEY = "lumina_mgpt2."
# Ways to quantise int4 weights; all are loaded alike.
INT4, ROUNDINGS = "int4", ("nearest", "hqq")
PLAIN_WEIGHTS, QUANTISED_WEIGHTS = "bf16", ("int8", "int4", "fp8", "int8-dynamic")


@dataclass(frozen=True)
class SingleFile:
    """The metadata of a converted file.

    `tokenizer` maps each tokenizer file's name to its text. `rounding` is one of ROUNDINGS, None unless int4.
    """

    path: Path
    weights: str
    config: dict[str, Any]
    tokenizer: dict[str, str]
    rounding: str | None = None

    @property
    def scheme(self) -> str | None:
        """The quantisation scheme of the blocks' linear weights, None where they are not quantised."""
        return self.weights if self.weights in QUANTISED_WEIGHTS else None

    def metadata(self) -> dict[str, str]:
        """The metadata as safetensors stores them."""
        return {
            "format": "pt",
            f"{KEY}format": str(FORMAT_VERSION),
            f"{KEY}weights": self.weights,
            **({} if self.rounding is None else {f"{KEY}rounding": self.rounding}),
            f"{KEY}config": json.dumps(self.config, ensure_ascii=False),
            f"{KEY}tokenizer": json.dumps(self.tokenizer, ensure_ascii=False),
        }


def read_single_file(path: Path, metadata: Mapping[str, str]) -> SingleFile | None:
    """The metadata of a converted file; None for any other safetensors file.

    Raises CheckpointError for an unknown version and for incomplete or damaged metadata.
    """
    if f"{KEY}format" not in metadata:
        return None
    weights = metadata.get(f"{KEY}weights")
    _check_version(path, metadata[f"{KEY}format"], FIRST_INT4_VERSION if weights == INT4 else 1)
    if weights is None or weights not in (PLAIN_WEIGHTS, *QUANTISED_WEIGHTS):
        known = ", ".join((PLAIN_WEIGHTS, *QUANTISED_WEIGHTS))
        raise CheckpointError(f"{path}: weights is {weights!r}; expected one of {known}: convert the checkpoint again")
    rounding = metadata.get(f"{KEY}rounding", ROUNDINGS[0]) if weights == INT4 else None
    if rounding not in (None, *ROUNDINGS):
        raise CheckpointError(
            f"{path}: rounding is {rounding[:20]!r}; expected one of {', '.join(ROUNDINGS)}: update the program, or "
            "convert the checkpoint again"
        )
    config, tokenizer = (_json_object(path, metadata, key) for key in ("config", "tokenizer"))
    if not all(isinstance(text, str) for text in tokenizer.values()):
        raise CheckpointError(f"{path}: tokenizer is not a map from file names to texts: convert the checkpoint again")
    return SingleFile(path, weights, config, tokenizer, rounding)


def _check_version(path: Path, text: str, oldest: int) -> None:
    version = int(text) if re.fullmatch("[0-9]{1,9}", text) else 0
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format {version}, made by a newer version of this program; expected a format up to "
            f"{FORMAT_VERSION}: update the program, or convert the checkpoint again"
        )
    if version < oldest:
        raise CheckpointError(
            f"{path}: format is {text[:20]!r}; expected {FORMAT_VERSION}: convert the checkpoint again"
        )


def _json_object(path: Path, metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    if KEY + key not in metadata:
        raise CheckpointError(f"{path}: {key} is missing: convert the checkpoint again")
    return parse_json(metadata[KEY + key], f"{path}: {key}", fix="convert the checkpoint again")
