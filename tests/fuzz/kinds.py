"""Random mutations of good inputs, by kind. A seed and an index name one, on every machine."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from .attempts import Attempt
from .kinds_binary import mutate_converted, mutate_data, mutate_foreign, mutate_header, mutate_pickle
from .kinds_good import mutate_layout, mutate_options, mutate_picture
from .kinds_text import mutate_config, mutate_texts, mutate_tokens
from .mutation import Mutation
from .place import Place

KINDS: dict[str, Callable[[Place, Random], Mutation]] = {
    "config": mutate_config,
    "JSON text": mutate_texts,
    "header": mutate_header,
    "data": mutate_data,
    "pickle": mutate_pickle,
    "other file": mutate_foreign,
    "converted": mutate_converted,
    "layout": mutate_layout,
    "tokens": mutate_tokens,
    "picture": mutate_picture,
    "options": mutate_options,
}


def mutated(place: Place, kind: str, seed: int, index: int) -> Attempt:
    """Changes the place as this seed and index say; gives the command on it and what may come of it."""
    mutation = KINDS[kind](place, Random(f"{seed}/{kind}/{index}"))
    return Attempt(kind, f"{index} of seed {seed}: {mutation.what}", lambda _: mutation.arguments, mutation.expected)


def all_inputs(count: int, seed: int, kinds: tuple[str, ...] = tuple(KINDS)) -> list[dict[str, object]]:
    """`count` inputs, as many of each kind as can be."""
    return [{"kind": kinds[n % len(kinds)], "seed": seed, "index": n // len(kinds)} for n in range(count)]
