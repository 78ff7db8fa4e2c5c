"""Ranks several pictures of one prompt by the scores of several verifiers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import InputError


@dataclass(frozen=True)
class Verifier:
    """Scores of one verifier, one for each picture; higher is better unless `weight` is below 0."""

    name: str
    scores: tuple[float, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Ranking:
    """The combined score of each picture, from 0 to 1, and the scores that it comes from."""

    verifiers: tuple[Verifier, ...]
    combined: tuple[float, ...]

    @property
    def order(self) -> tuple[int, ...]:
        """Indices of the pictures, the best first; the earlier first where scores are equal."""
        return tuple(sorted(range(len(self.combined)), key=lambda index: -self.combined[index]))

    def caption(self, index: int) -> str:
        """Scores of a picture, one a line."""
        lines = [f"#{index}  score {self.combined[index]:.3f}"]
        return "\n".join(lines + [f"{one.name} {one.scores[index]:.4g}" for one in self.verifiers])

    def table(self) -> str:
        """All scores as a text table, one picture a line, the best first."""
        names = [f"{one.name} (weight {one.weight:g})" for one in self.verifiers]
        rows = [["place", "picture", "score", *names]]
        for place, index in enumerate(self.order, 1):
            scores = [f"{one.scores[index]:.4g}" for one in self.verifiers]
            rows.append([str(place), str(index), f"{self.combined[index]:.3f}", *scores])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.rjust, row, widths)) for row in rows)


def rank_pictures(verifiers: Sequence[Verifier], pictures: int) -> Ranking:
    """Combines scores by rank: a picture's score is the weighted mean of its rank with each verifier.

    Verifiers' scores differ in scale and tails (nats, probabilities, yes or no). Ranks do not depend on either; with
    z-scores one outlier could outweigh all other verifiers. Raises InputError for a number of scores that is not
    `pictures`, for a score that is not finite, and when no verifier has a weight.
    """
    for verifier in verifiers:
        _check(verifier, pictures)
    total = sum(abs(verifier.weight) for verifier in verifiers)
    if not total:
        raise InputError(
            "there is no score to choose by; connect the sampler's latent or scores, with a weight that is not 0"
        )
    combined = [0.0] * pictures
    for verifier in verifiers:
        sign, share = math.copysign(1, verifier.weight), abs(verifier.weight) / total
        for index, place in enumerate(places([sign * score for score in verifier.scores])):
            combined[index] += share * place
    # Rounded, so that the order of summation breaks no tie.
    return Ranking(tuple(verifiers), tuple(round(score, 12) for score in combined))


def places(scores: Sequence[float]) -> list[float]:
    """Rank of each score, from 0 for the lowest to 1 for the highest; equal scores share their mean rank."""
    if len(scores) == 1:
        return [1.0]
    below = [sum(other < score for other in scores) for score in scores]
    equal = [sum(other == score for other in scores) - 1 for score in scores]
    return [(less + same / 2) / (len(scores) - 1) for less, same in zip(below, equal, strict=True)]


def flat_scores(name: str, values: object) -> tuple[float, ...]:
    """All numbers of nested lists, tuples, arrays and tensors, in order. Raises InputError for anything else."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    if isinstance(values, Iterable) and not isinstance(values, str | bytes | dict):
        return tuple(score for value in values for score in flat_scores(name, value))
    if isinstance(values, int | float):
        with contextlib.suppress(OverflowError):  # an integer beyond a float
            return (float(values),)
    raise InputError(f"{name} holds {values!r:.100}; expected numbers only, one for each picture")


def _check(verifier: Verifier, pictures: int) -> None:
    name, scores = verifier.name, verifier.scores
    if len(scores) != pictures:
        raise InputError(f"{name} holds {len(scores)} scores; expected {pictures}, one for each picture of the batch")
    for index, score in enumerate(scores):
        if not math.isfinite(score):
            raise InputError(
                f"{name} holds {score} for picture {index}; expected finite numbers: see why its verifier failed there"
            )
