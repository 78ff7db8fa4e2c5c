"""What is said of a LoRA beside its tensors: adapter_config.json of PEFT, or the metadata of the file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..files.json_text import parse_json, read_json

CONFIG = "adapter_config.json"
# Metadata: JSON of diffusers, whose keys begin with the name of a part of the pipeline; alpha as trainers write it.
_DIFFUSERS, _ALPHAS = "lora_adapter_metadata", ("lora_alpha", "ss_network_alpha")
_AGAIN = "save the LoRA again"


@dataclass(frozen=True)
class AdapterSettings:
    """`alpha` of all matrices (None: the rank), `alphas` of some by their names, and whether it is an rsLoRA."""

    alpha: float | None = None
    alphas: Mapping[str, float] = field(default_factory=dict)
    rank_stabilized: bool = False

    def scale(self, module: str, rank: int, own_alpha: float | None) -> float:
        """The factor of B·A of a module: alpha / rank, of an rsLoRA alpha / √rank. `own_alpha` is of the file."""
        alpha = own_alpha
        if alpha is None:
            pattern = (value for name, value in self.alphas.items() if _matches(name, module))
            alpha = next(pattern, self.alpha)
        divisor = math.sqrt(rank) if self.rank_stabilized else rank
        return (rank if alpha is None else alpha) / divisor


def read_settings(path: Path, metadata: Mapping[str, str]) -> AdapterSettings:
    """The settings of a LoRA file: of the adapter_config.json beside it, else of its metadata.

    Raises CheckpointError for a damaged config, and for a kind of adapter that is not supported.
    """
    config = path.parent / CONFIG
    if config.is_file():
        return _of_values(read_json(config), str(config))
    if _DIFFUSERS in metadata:
        values = parse_json(metadata[_DIFFUSERS], f"{path}: its metadata `{_DIFFUSERS}`", fix=_AGAIN)
        return _of_values({name.rpartition(".")[2]: value for name, value in values.items()}, str(path))
    values = {key: _plain(metadata[key]) for key in ("use_rslora", "use_dora", "alpha_pattern") if key in metadata}
    alpha = next((_plain(metadata[key]) for key in _ALPHAS if key in metadata), None)
    return _of_values({**values, "lora_alpha": alpha}, str(path))


def _of_values(values: Mapping[str, Any], source: str) -> AdapterSettings:
    kind = values.get("peft_type", "LORA")
    if str(kind).upper() != "LORA" or values.get("use_dora"):
        named = "DoRA" if values.get("use_dora") else f"of the kind {kind!r:.40}"
        raise CheckpointError(f"{source} says that the adapter is {named}, which is not supported; expected a LoRA")
    pattern = values.get("alpha_pattern") or {}
    if not isinstance(pattern, dict):
        raise CheckpointError(f"{source}: alpha_pattern is {pattern!r:.60}; expected an object of numbers: {_AGAIN}")
    alpha = values.get("lora_alpha")
    return AdapterSettings(
        alpha=None if alpha in (None, "None") else _number("lora_alpha", alpha, source),
        alphas={str(name): _number("alpha_pattern", value, source) for name, value in pattern.items()},
        rank_stabilized=values.get("use_rslora") is True,
    )


def _plain(text: str) -> Any:
    """A value of the metadata, which are texts."""
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False}.get(text, text)


def _number(name: str, value: Any, source: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CheckpointError(f"{source}: {name} is {value!r:.60}; expected a finite number: {_AGAIN}")
    return float(value)


def _matches(pattern: str, module: str) -> bool:
    """Whether a key of PEFT's alpha_pattern, a regular expression, is of a module: by the end of its name."""
    if module == pattern or module.endswith(f".{pattern}"):
        return True
    try:
        return re.fullmatch(rf"(.*\.)?(?:{pattern})", module) is not None
    except re.error:
        return False
