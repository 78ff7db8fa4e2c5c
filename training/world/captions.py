"""Captions of the demo world: many wordings of one claim. A caption states exactly what the claim states."""

from __future__ import annotations

import numpy as np

from .scenes import Claim, Spec, pick

CAPITALISED = 0.2
FULL_STOP = 0.15
PLURALS = {"cross": "crosses"}
COUNT_WORDS = {1: ("one", "1", "a single"), 2: ("two", "2"), 3: ("three", "3"), 4: ("four", "4")}
SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
RELATION_WORDS = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "beneath", "under"),
}
FRAMES = (
    "{}",
    "{}",
    "{}",
    "there {be} {}",
    "a picture of {}",
    "an image of {}",
    "a drawing of {}",
    "a picture with {}",
    "draw {}",
)
JOINTS = (" and ", " and ", " and ", " together with ", " as well as ", " with ")
BACKGROUND_FRAMES = (
    "{} on a {background} background",
    "{} on a {background} background",
    "{} on {background}",
    "{} against a {background} background",
    "{}, {background} background",
    "{background} background: {}",
    "on a {background} background, {}",
)


def write_caption(rng: np.random.Generator, spec: Spec) -> str:
    """A random wording of the claim."""
    names = [_name(rng, claim, len(spec.claims)) for claim in spec.claims]
    subject = _related(rng, names, spec.relation) if spec.relation else _listed(rng, names)
    be = "are" if spec.claims[0].count > 1 else "is"
    text = pick(rng, FRAMES).format(subject, be=be)
    if spec.background:
        text = pick(rng, BACKGROUND_FRAMES).format(text, background=spec.background)
    if rng.random() < CAPITALISED:
        text = text[0].upper() + text[1:]
    return text + "." if rng.random() < FULL_STOP else text


def _name(rng: np.random.Generator, claim: Claim, kinds: int) -> str:
    noun = claim.shape if claim.count == 1 else PLURALS.get(claim.shape, claim.shape + "s")
    size = pick(rng, SIZE_WORDS[claim.size]) if claim.size else None
    words = " ".join(word for word in (size, claim.colour, noun) if word)
    if claim.count > 1 or (kinds == 1 and rng.random() < 0.3):
        return f"{pick(rng, COUNT_WORDS[claim.count])} {words}"
    return f"{_article(words)} {words}"


def _related(rng: np.random.Generator, names: list[str], relation: str) -> str:
    return f"{names[0]} {pick(rng, RELATION_WORDS[relation])} {names[1]}"


def noun(claim: Claim) -> str:
    """One object of a claim with its article: "an orange star"."""
    words = " ".join(word for word in (claim.colour, claim.shape) if word)
    return f"{_article(words)} {words}"


def _article(words: str) -> str:
    return "an" if words[0] in "aeiou" else "a"


def _listed(rng: np.random.Generator, names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    joint = pick(rng, JOINTS) if len(names) == 2 else " and "
    return ", ".join(names[:-1]) + joint + names[-1]
