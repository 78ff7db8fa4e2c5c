"""LoRAs with their strengths: what a model wears."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.config import TransformerConfig
from ..errors import InputError
from .file import EXPECTED, Lora, read_lora

STRENGTH = 1.0
# What is before a colon in a path of Windows: a letter.
_DRIVE_LENGTH = 1


@dataclass(frozen=True)
class AppliedLora:
    """A LoRA and its strength, the factor of all that it adds. Raises InputError unless that is a finite number."""

    lora: Lora
    strength: float = STRENGTH

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", check_strength(self.strength))

    def __str__(self) -> str:
        return f"{self.lora.name}:{self.strength:g}"

    def values(self) -> dict[str, str | float]:
        """File and strength, for reports."""
        return {"file": self.lora.name, "strength": self.strength}


LoraSource = str | Path | Lora | AppliedLora | tuple[str | Path | Lora, float]


def check_strength(strength: object) -> float:
    """The strength. Raises InputError for one that is no finite number."""
    if not isinstance(strength, numbers.Real) or isinstance(strength, bool) or not math.isfinite(strength):
        raise InputError(f"the strength of a LoRA is {strength!r:.60}; expected a finite number, such as 1 or 0.5")
    return float(strength)


def in_use(loras: Sequence[AppliedLora]) -> tuple[AppliedLora, ...]:
    """Those that change something: a strength of 0 is no LoRA at all."""
    return tuple(one for one in loras if one.strength != 0)


def read_applied(source: LoraSource, config: TransformerConfig) -> AppliedLora:
    """A LoRA for a model of this config, with its strength, 1 where none is given.

    Raises InputError and, as `read_lora`, CheckpointError.
    """
    if isinstance(source, AppliedLora):
        return source
    lora, strength = source if isinstance(source, tuple) and len(source) == 2 else (source, STRENGTH)
    if not isinstance(lora, str | Path | Lora):
        raise InputError(f"a LoRA is {lora!r:.100}; expected {EXPECTED}, or a pair of that and a strength")
    strength = check_strength(strength)
    return AppliedLora(lora if isinstance(lora, Lora) else read_lora(lora, config), strength)


def parse_argument(text: str) -> tuple[Path, float]:
    """File and strength of "FILE[:strength]". Raises InputError.

    A colon in what is a file, after the letter of a drive, or before a separator is the file's own.
    """
    file, colon, strength = text.rpartition(":")
    separators = "/", "\\"
    if os.path.lexists(text) or not colon or len(file) <= _DRIVE_LENGTH or any(one in strength for one in separators):
        return Path(text), STRENGTH
    try:
        return Path(file), check_strength(float(strength))
    except ValueError:  # InputError is one
        raise InputError(f"the strength after {file}: is {strength!r:.60}; expected a finite number") from None
