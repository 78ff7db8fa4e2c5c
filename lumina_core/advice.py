"""What to change where a run does not fit a device."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from .device import gigabytes
from .errors import OutOfMemory
from .model.kv_store import KV_CACHES
from .pictures.panels import CODE_PIXELS
from .planner import Demand, MemoryPlan, plan_memory
from .quant.schemes import SCHEMES
from .tokens.vocabulary import CODES_PER_UNIT


@dataclass(frozen=True)
class Budget:
    """Bytes that a run may take, its weights included; or without them, where a memory manager streams them in."""

    capacity: float
    with_weights: bool = True

    def needed(self, plan: MemoryPlan) -> int:
        """What of a plan counts."""
        return plan.total if self.with_weights else plan.run

    def fits(self, demand: Demand) -> bool:
        return self.needed(plan_memory(demand)) <= self.capacity


def check_fits(demand: Demand, budget: Budget) -> None:
    """Raises OutOfMemory when a run takes more than the budget, naming what would fit."""
    if not budget.fits(demand):
        raise OutOfMemory(
            f"{demand.request} would take about {plan_memory(demand)} and there are {gigabytes(budget.capacity)}; "
            + advice(demand, budget)
        )


def advice(demand: Demand, budget: Budget) -> str:
    """What to change so that a run fits: every change that does alone, or else several together."""
    ways = [_smaller_batch(demand), _smaller_cache(demand), _smaller_picture(demand)]
    if budget.with_weights:
        ways.insert(2, _int4_weights(demand))
    alone = [change.name for way in ways for change in _first_that_fits(way, budget)]
    if alone:
        return "what would fit: " + ", or ".join(alone)
    together = [change.name for change in _together(demand, budget)]
    return "what would fit: " + " and ".join(together) if together else "no picture of this model would fit"


def _together(demand: Demand, budget: Budget) -> list[Change]:
    """Every change that leaves the picture as large as it is, and a smaller picture if that is not enough.

    The cache becomes no smaller than it must.
    """
    changes: list[Change] = []
    for changes in [[change] for change in _smaller_cache(demand)] or [[]]:
        least = changes[-1].demand if changes else demand
        for way in (_int4_weights, _smallest_batch):
            for change in way(least):
                changes.append(change)
                least = change.demand
        if budget.fits(least):
            return changes
    smaller = list(_first_that_fits(_smaller_picture(least), budget))
    return changes + smaller if smaller else []


def _first_that_fits(changes: Iterator[Change], budget: Budget) -> Iterator[Change]:
    return itertools.islice((change for change in changes if budget.fits(change.demand)), 1)


@dataclass(frozen=True)
class Change:
    """A smaller run, and what it is called."""

    name: str
    demand: Demand


def _smaller_batch(demand: Demand) -> Iterator[Change]:
    return (_batch(demand, size) for size in range(len(demand.request.prompts) - 1, 0, -1))


def _smallest_batch(demand: Demand) -> Iterator[Change]:
    if len(demand.request.prompts) > 1:
        yield _batch(demand, 1)


def _batch(demand: Demand, size: int) -> Change:
    request = demand.request
    given = request.given_codes
    if given is not None and given.ndim == 3 and len(given) > 1:
        given = given[:size]
    smaller = replace(request, prompts=request.prompts[:size], given_codes=given)
    return Change(f"batch {size}", replace(demand, request=smaller))


def _smaller_cache(demand: Demand) -> Iterator[Change]:
    settings = demand.request.settings
    for kv_cache in KV_CACHES[KV_CACHES.index(settings.kv_cache) + 1 :]:
        request = replace(demand.request, settings=replace(settings, kv_cache=kv_cache))
        yield Change(f"the {kv_cache} cache", replace(demand, request=request))


def _int4_weights(demand: Demand) -> Iterator[Change]:
    if demand.weights.scheme is None:
        yield Change("int4 weights", replace(demand, weights=replace(demand.weights, scheme=SCHEMES["int4"])))


def _smaller_picture(demand: Demand) -> Iterator[Change]:
    """The same shape as nearly as whole grid units allow, largest first; given rows in the same share."""
    request = demand.request
    high, wide = request.grid_h // CODES_PER_UNIT, request.grid_w // CODES_PER_UNIT
    for longer in range(max(high, wide) - 1, 0, -1):
        units = (max(1, round(side * longer / max(high, wide))) for side in (high, wide))
        grid_h, grid_w = (side * CODES_PER_UNIT for side in units)
        rows = request.given().shape[1] * grid_h // request.grid_h
        given = torch.zeros(rows, grid_w, dtype=torch.int64)
        smaller = replace(request, grid_h=grid_h, grid_w=grid_w, given_codes=given).fit_window()
        yield Change(f"{grid_w * CODE_PIXELS}x{grid_h * CODE_PIXELS}", replace(demand, request=smaller))
