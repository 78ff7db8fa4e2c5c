"""One random change of a good input, and changes of bytes."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from .attempts import Expected
from .place import Arguments, Place


@dataclass(frozen=True)
class Mutation:
    """What was changed, the command, and what may come of it."""

    what: str
    arguments: Arguments
    expected: Expected


def any_command(place: Place, random: Random) -> Arguments:
    """Mostly `generate`, at times `convert` or `info`."""
    draw = random.random()
    if draw < 0.8:
        return place.generate()
    return place.convert(weights=random.choice(["int4", "int8", "bf16"])) if draw < 0.92 else place.info()


def flip_bits(content: bytes, random: Random, low: int = 0, high: int | None = None) -> tuple[bytes, str]:
    """1 to 4 bits between two positions."""
    changed, high = bytearray(content), len(content) if high is None else high
    positions = [random.randrange(low, high) for _ in range(random.randint(1, 4))]
    for position in positions:
        changed[position] ^= 1 << random.randrange(8)
    return bytes(changed), f"bits flipped at {positions}"


def mangle(content: bytes, random: Random) -> tuple[bytes, str]:
    """Bits flipped, or a part removed, repeated, or replaced by other bytes."""
    start = random.randrange(len(content))
    end = min(len(content), start + random.choice([1, 2, 8, 64, 1000]))
    part = content[start:end]
    way = random.choice(["flip", "remove", "repeat", "replace", "cut"])
    if way == "flip":
        return flip_bits(content, random)
    new = {"remove": b"", "repeat": part * 2, "replace": random.randbytes(len(part)), "cut": b""}[way]
    rest = b"" if way == "cut" else content[end:]
    return content[:start] + new + rest, f"{way} {start} to {end} of {len(content)}"
