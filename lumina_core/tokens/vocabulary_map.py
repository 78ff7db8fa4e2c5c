"""The `vocabulary_map` of a config.json: names of tokens to ids, held against those of the tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError

logger = logging.getLogger(__name__)

CODE_NAME = "IMGIMG"
# A map with so many image codes is of a whole vocabulary.
MANY_CODES = 1000


def check_vocabulary_map(values: Any, ids: Mapping[str, int], codes: range) -> None:
    """Raises CheckpointError when a `vocabulary_map` is damaged, or has another id for a name in `ids`.

    `codes` are the ids of the image codes. A map whose image codes have other ids belongs to another vocabulary, such
    as that of the model that a config was copied from: it is ignored, and the log says so.
    """
    if values is None:
        return
    names = _checked(values)
    code_ids = [token for name, token in names.items() if name.startswith(CODE_NAME)]
    others = [token for token in code_ids if token not in codes]
    if len(code_ids) >= MANY_CODES and 2 * len(others) > len(code_ids):
        logger.warning(
            "The vocabulary_map of config.json is of another vocabulary and is ignored: its image codes are %d to %d, "
            "those of the model %d to %d",
            *(min(code_ids), max(code_ids), codes.start, codes.stop - 1),
        )
        return
    if len(code_ids) >= MANY_CODES and (min(code_ids), max(code_ids)) != (codes.start, codes.stop - 1):
        raise CheckpointError(
            f"the image codes are {codes.start} to {codes.stop - 1} by image_token_offset and image_codebook_size, and "
            f"{min(code_ids)} to {max(code_ids)} in the vocabulary_map of config.json; expected the same: download "
            "config.json again"
        )
    for name, token in ids.items():
        if names.get(name, token) != token:
            raise CheckpointError(
                f"{name} has the id {token} in the tokenizer and {names[name]} in the vocabulary_map of config.json; "
                "expected the same: the two files are of different models, so download both again"
            )


def _checked(values: Any) -> dict[str, int]:
    expected = "a map of names to ids; download config.json again"
    if not isinstance(values, dict):
        raise CheckpointError(f"vocabulary_map in config.json is a {type(values).__name__}; expected {expected}")
    for name, token in values.items():
        if not isinstance(token, int) or isinstance(token, bool) or token < 0:
            raise CheckpointError(
                f"vocabulary_map in config.json has {token!r:.40} for {name!r:.40}; expected {expected}"
            )
    return values
