"""Captions of the demo world: many wordings of one claim. A caption states exactly what the claim states."""

from __future__ import annotations

import numpy as np

from .palette import PLACES
from .scenes import Claim, Spec, pick

CAPITALISED = 0.2
FULL_STOP = 0.15
PLURALS = {
    "cross": "crosses",
    "fox": "foxes",
    "octopus": "octopuses",
    "cactus": "cactuses",
    "bus": "buses",
    "butterfly": "butterflies",
    "strawberry": "strawberries",
    "snowman": "snowmen",
}
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
PLACE_FRAMES = {
    "sky": ("{} in the sky", "{} in the sky", "{} in a blue sky", "in the sky, {}"),
    "grass": ("{} on the grass", "{} on grass", "{} in a meadow", "on the grass, {}"),
    "sand": ("{} on the sand", "{} on sand", "{} on the beach", "on the sand, {}"),
    "night": ("{} at night", "{} at night", "{} in the night", "at night, {}"),
    "snow": ("{} in the snow", "{} in the snow", "{} on snow", "in the snow, {}"),
}
WHERE_WORDS = {
    ("left", "top"): ("in the top left corner", "at the top left", "in the top left"),
    ("middle", "top"): ("at the top", "at the top in the middle"),
    ("right", "top"): ("in the top right corner", "at the top right", "in the top right"),
    ("left", "middle"): ("on the left", "on the left side"),
    ("middle", "middle"): ("in the middle", "in the center"),
    ("right", "middle"): ("on the right", "on the right side"),
    ("left", "bottom"): ("in the bottom left corner", "at the bottom left", "in the bottom left"),
    ("middle", "bottom"): ("at the bottom", "at the bottom in the middle"),
    ("right", "bottom"): ("in the bottom right corner", "at the bottom right", "in the bottom right"),
}


def write_caption(rng: np.random.Generator, spec: Spec) -> str:
    """A random wording of the claim."""
    names = [_name(rng, claim, len(spec.claims)) for claim in spec.claims]
    subject = _related(rng, names, spec.relation) if spec.relation else _listed(rng, names)
    if spec.where:
        subject = f"{subject} {pick(rng, WHERE_WORDS[spec.where])}"
    be = "are" if spec.claims[0].count > 1 else "is"
    text = pick(rng, FRAMES).format(subject, be=be)
    if spec.background:
        frames = PLACE_FRAMES[spec.background] if spec.background in PLACES else BACKGROUND_FRAMES
        text = pick(rng, frames).format(text, background=spec.background)
    if rng.random() < CAPITALISED:
        text = text[0].upper() + text[1:]
    return text + "." if rng.random() < FULL_STOP else text


def _name(rng: np.random.Generator, claim: Claim, kinds: int) -> str:
    noun = claim.kind if claim.count == 1 else plural(claim.kind)
    size = pick(rng, SIZE_WORDS[claim.size]) if claim.size in SIZE_WORDS else None
    words = " ".join(word for word in (size, claim.colour, noun) if word)
    if claim.count > 1 or (kinds == 1 and rng.random() < 0.3):
        return f"{pick(rng, COUNT_WORDS[claim.count])} {words}"
    return f"{_article(words)} {words}"


def plural(kind: str) -> str:
    """Several of a kind: "foxes"."""
    return PLURALS.get(kind, kind + "s")


def _related(rng: np.random.Generator, names: list[str], relation: str) -> str:
    return f"{names[0]} {pick(rng, RELATION_WORDS[relation])} {names[1]}"


def noun(claim: Claim) -> str:
    """One object of a claim with its article: "an orange star"."""
    words = " ".join(word for word in (claim.colour, claim.kind) if word)
    return f"{_article(words)} {words}"


def _article(words: str) -> str:
    return "an" if words[0] in "aeiou" else "a"


def _listed(rng: np.random.Generator, names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    joint = pick(rng, JOINTS) if len(names) == 2 else " and "
    return ", ".join(names[:-1]) + joint + names[-1]
