"""Is a caption true of a picture? The six questions that GenEval asks (arXiv 2310.11513), on recognised objects."""

from __future__ import annotations

from .palette import SIZES
from .recognise import FoundObject, Recognised
from .scenes import Claim, Spec, offsets, where

MIN_ALONG = 20.0
ALONG_OVER_ACROSS = 1.5


def judge(spec: Spec, picture: Recognised) -> bool:
    """True when the picture shows what the claim's category asks for.

    Objects present in their colours; for counting exactly so many of the kind, all in the colour; for position the
    relation too. Sizes, place, background and further objects do not matter here: see `judge_strict`.
    """
    if spec.category == "counting":
        return _counted(spec.claims[0], picture)
    found = [_matching(claim, picture) for claim in spec.claims]
    if spec.relation is not None:
        return any(_related(a, b, spec.relation) for a in found[0] for b in found[1])
    return all(found)


def judge_strict(spec: Spec, picture: Recognised) -> bool:
    """True when `judge` is true, stated sizes, place and background are right, and nothing else is in the picture."""
    sizes_hold = all(
        any(thing.size == claim.size for thing in _matching(claim, picture))
        for claim in spec.claims
        if claim.size is not None
    )
    background_holds = spec.background in (None, picture.background)
    complete = len(picture.objects) == sum(claim.count for claim in spec.claims)
    return judge(spec, picture) and sizes_hold and background_holds and complete and _is_there(spec, picture)


def _is_there(spec: Spec, picture: Recognised) -> bool:
    if spec.where is None:
        return True
    return any(where(_corner(thing), SIZES[thing.size]) == spec.where for thing in _matching(spec.claims[0], picture))


def _corner(thing: FoundObject) -> tuple[int, int]:
    half = SIZES[thing.size] // 2
    return round(thing.x) - half, round(thing.y) - half


def _matching(claim: Claim, picture: Recognised) -> list[FoundObject]:
    return [thing for thing in picture.objects if thing.kind == claim.kind and claim.colour in (None, thing.colour)]


def _counted(claim: Claim, picture: Recognised) -> bool:
    of_kind = sum(thing.kind == claim.kind for thing in picture.objects)
    return of_kind == claim.count == len(_matching(claim, picture))


def _related(a: FoundObject, b: FoundObject, relation: str) -> bool:
    along, across = offsets(a.x - b.x, a.y - b.y, relation)
    return along >= MIN_ALONG and along >= ALONG_OVER_ACROSS * across
