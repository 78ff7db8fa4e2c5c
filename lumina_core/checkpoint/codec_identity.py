"""Which MoVQGAN a transformer was trained with, as its config.json may say under the key `image_codec`.

    "image_codec": {"channels": 256, "multipliers": [1, 2, 2, 4], "first_values": {"encoder.conv_in.weight": [...]}}

`first_values` are the first values of some tensors. They tell two codecs of the same shapes apart, in any dtype.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError

IMAGE_CODEC = "image_codec"
# Of these a config holds the first values: what the codes mean, and what makes them.
CODEBOOK, FIRST_CONVOLUTION = "quantize.embedding.weight", "encoder.conv_in.weight"
FIRST_VALUES = 8
# The largest difference by rounding to fp16 or bf16, as a share of the largest value.
ROUNDING = 0.01
_EXPECTED = "an object with channels (a positive integer), multipliers (a list) and first_values (lists by tensor)"

FirstValues = tuple[tuple[str, tuple[float, ...]], ...]


@dataclass(frozen=True)
class CodecIdentity:
    """Channels and multipliers of a MoVQGAN, and first values by tensor; what is empty is not known."""

    channels: int
    multipliers: tuple[int, ...] = ()
    first_values: FirstValues = ()

    @classmethod
    def of(cls, channels: int, multipliers: tuple[int, ...], tensors: Mapping[str, Any]) -> CodecIdentity:
        """The identity of a codec with these tensors, by name."""
        return cls(
            channels, multipliers, tuple((name, _first(tensors[name])) for name in (CODEBOOK, FIRST_CONVOLUTION))
        )

    @classmethod
    def from_config(cls, values: Mapping[str, Any], source: str) -> CodecIdentity | None:
        """What a config's values say; None where they say nothing. Raises CheckpointError for damaged values."""
        own = values.get(IMAGE_CODEC)
        if own is None:
            return None
        try:
            first = tuple((name, tuple(map(float, some))) for name, some in own.get("first_values", {}).items())
            identity = cls(own["channels"], tuple(own.get("multipliers", [])), first)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"{source}: {IMAGE_CODEC} is {own!r}; expected {_EXPECTED}") from error
        if not all(type(count) is int and count > 0 for count in (identity.channels, *identity.multipliers)):
            raise CheckpointError(f"{source}: {IMAGE_CODEC} is {own!r}; expected {_EXPECTED}")
        return identity

    def values(self) -> dict[str, Any]:
        """The values for a config.json."""
        first = {name: list(some) for name, some in self.first_values}
        return {"channels": self.channels, "multipliers": list(self.multipliers), "first_values": first}

    def is_same(self, other: CodecIdentity) -> bool:
        """Whether both may be of one codec, by what both know."""
        same = self.channels == other.channels and self.multipliers in ((), other.multipliers or self.multipliers)
        others = dict(other.first_values)
        return same and all(_alike(some, others[name]) for name, some in self.first_values if name in others)

    def __str__(self) -> str:
        return f"{self.channels} channels" + (f", multipliers {list(self.multipliers)}" if self.multipliers else "")


def _first(tensor: Any) -> tuple[float, ...]:
    """The first values of a tensor, to seven digits."""
    return tuple(float(f"{value:.7g}") for value in tensor.detach().flatten()[:FIRST_VALUES].float().tolist())


def _alike(some: tuple[float, ...], others: tuple[float, ...]) -> bool:
    """Whether values are equal up to rounding, as far as both go."""
    pairs = list(zip(some, others, strict=False))
    largest = max((abs(value) for pair in pairs for value in pair), default=0.0)
    return all(math.isclose(a, b, rel_tol=0, abs_tol=ROUNDING * largest) for a, b in pairs)
