"""Memory of a run: whether it fits, smaller settings that would, and what auto chooses."""

from __future__ import annotations

import logging
from dataclasses import astuple, dataclass, replace

import torch

from .checkpoint.config import PUBLISHED_CODEBOOK_SIZE, TransformerConfig
from .decoding.memory_plan import Demand, MemoryPlan, plan_memory
from .decoding.request import Request
from .device import gigabytes
from .errors import OutOfMemory
from .kernels.kv_tensor import AUTO as AUTO_CACHE
from .kernels.kv_tensor import INT8, KV_CACHES
from .model.transformer import Transformer
from .movqgan.config import PUBLISHED_MOVQGAN
from .pictures.sizes import CODE_PIXELS, CODES_PER_UNIT, largest_size, size_text
from .quant.linear import QuantizedLinear
from .quant.schemes import SCHEMES
from .quant.weights import AUTO, WeightsPlan, plan_weights

logger = logging.getLogger(__name__)

# The share of a device's memory that a run may take for auto to keep its weights plain. The rest is for the CUDA
# context and the desktop, 0.5 to 1.5 GB of a GPU, and for gaps between allocations, some percent.
AUTO_SHARE = 0.9
# After a failed allocation: the share of the run's estimate that smaller settings must stay below.
RETRY_SHARE = 0.75
# Tokens of the prompt where none is known.
PROMPT_TOKENS = 64


@dataclass(frozen=True)
class Budget:
    """Bytes that a run may take. `streamed`: a memory manager streams in the weights that it can."""

    capacity: float
    streamed: bool = False

    def plan(self, demand: Demand) -> MemoryPlan:
        """What counts against the budget."""
        plan = plan_memory(demand)
        return plan.streamed if self.streamed else plan

    def fits(self, demand: Demand) -> bool:
        return self.plan(demand).total <= self.capacity


def fit_cache(demand: Demand, budget: Budget) -> Demand:
    """The run with the int8 cache where the cache is auto, does not fit, and int8 does, which is logged; else the same.

    For use before `check_fits`.
    """
    int8 = demand.with_cache(INT8)
    if demand.request.settings.kv_cache != AUTO_CACHE or budget.fits(demand) or not budget.fits(int8):
        return demand
    logger.warning(
        "key/value cache auto: int8, since %s would take about %s with a %s cache and there are %s",
        demand.request,
        budget.plan(demand),
        demand.weights.dtype_name,
        gigabytes(budget.capacity),
    )
    return int8


def check_fits(demand: Demand, budget: Budget) -> None:
    """Raises OutOfMemory, naming smaller settings that fit, when a run is estimated to take more than the budget."""
    if not budget.fits(demand):
        raise OutOfMemory(
            f"{demand.request} would take about {budget.plan(demand)} and there are {gigabytes(budget.capacity)}; "
            + advice(demand, budget)
        )


def choose_weights(
    choice: str, stored: str | None, dtype: torch.dtype, config: TransformerConfig, capacity: int | None
) -> WeightsPlan:
    """How to load weights that are `stored` in a scheme (None: plain), by the user's choice, on a device.

    auto, which is logged: as stored where they are quantised or the device's memory of `capacity` bytes is not known,
    or where the weights in `dtype`, cache and decoding of the largest trained size fit; else int4. Raises InputError.
    """
    plan = plan_weights(choice, stored, dtype)
    if choice != AUTO:
        return plan
    if stored is not None or capacity is None:
        logger.info("weights auto: %s, %s", plan.name, "as stored" if stored else "the device's memory is not known")
        return plan
    needed, size = _largest_picture(config, plan)
    said = f"{gigabytes(needed)} of {gigabytes(capacity)} for a picture of {size_text(size)}, cache included"
    if stays_resident(plan, config, capacity):
        logger.info("weights auto: %s, which takes about %s", plan.name, said)
        return plan
    logger.warning("weights auto: int4, since %s would take about %s", plan.name, said)
    return replace(plan, scheme=SCHEMES["int4"])


def weights_of(transformer: Transformer) -> WeightsPlan:
    """How a transformer's weights are stored."""
    schemes = (layer.scheme for layer in transformer.layers.modules() if isinstance(layer, QuantizedLinear))
    return WeightsPlan(transformer.dtype, next(schemes, None))


def stays_resident(weights: WeightsPlan, config: TransformerConfig, capacity: int) -> bool:
    """Whether weights stay on a device with a memory of `capacity` bytes while the largest trained size is drawn."""
    return _largest_picture(config, weights)[0] <= AUTO_SHARE * capacity


def _largest_picture(config: TransformerConfig, weights: WeightsPlan) -> tuple[int, tuple[int, int]]:
    """The bytes of a run that draws the largest trained size, and that size in pixels."""
    size = largest_size(config.trained_sizes)
    grid_w, grid_h = (side // CODE_PIXELS for side in size)
    codec = PUBLISHED_MOVQGAN if config.codebook_size == PUBLISHED_CODEBOOK_SIZE else None
    request = Request([[0] * PROMPT_TOKENS], grid_h, grid_w)
    return plan_memory(Demand(config, weights, request, codec)).total, size


@dataclass(frozen=True)
class Smaller:
    """Smaller settings for a run; None keeps a setting. `grid` is the picture's (grid_h, grid_w)."""

    batch: int | None = None
    kv_cache: str | None = None
    weights: str | None = None
    grid: tuple[int, int] | None = None

    def __str__(self) -> str:
        parts = (
            self.batch and f"batch {self.batch}",
            self.kv_cache and f"the {self.kv_cache} cache",
            self.weights and f"{self.weights} weights",
            self.grid and f"{self.grid[1] * CODE_PIXELS}x{self.grid[0] * CODE_PIXELS}",
        )
        return " and ".join(part for part in parts if part)

    @property
    def kind(self) -> tuple[bool, ...]:
        """Which settings change."""
        return tuple(value is not None for value in astuple(self))

    def apply(self, demand: Demand) -> Demand:
        """The smaller run, with the same share of given rows."""
        request = demand.request
        grid_h, grid_w = self.grid or (request.grid_h, request.grid_w)
        given = torch.zeros(request.canvas.given_rows * grid_h // request.grid_h, grid_w, dtype=torch.int64)
        settings = replace(request.settings, kv_cache=self.kv_cache or request.settings.kv_cache)
        scheme = SCHEMES[self.weights] if self.weights else demand.weights.scheme
        negatives = None if request.negative_prompts is None else request.negative_prompts[: self.batch]
        smaller = Request(request.prompts[: self.batch], grid_h, grid_w, given, settings, negatives)
        return replace(demand, weights=replace(demand.weights, scheme=scheme), request=smaller)


def advice(demand: Demand, budget: Budget) -> str:
    """Smaller settings with which a run fits: of each kind the first that does, or else the first combination."""
    fitting: dict[tuple[bool, ...], Smaller] = {}
    for smaller in _candidates(demand, budget.streamed):
        if fitting and sum(smaller.kind) > 1:
            break
        if smaller.kind not in fitting and budget.fits(smaller.apply(demand)):
            fitting[smaller.kind] = smaller
    listed = ", or ".join(map(str, fitting.values()))
    return f"smaller settings that fit: {listed}" if fitting else "no picture of this model would fit"


def out_of_memory_message(demand: Demand) -> str:
    """The message for a run whose allocation failed, whatever was estimated."""
    plan = plan_memory(demand)
    budget = Budget(RETRY_SHARE * plan.total)
    return f"out of memory while drawing {demand.request}, which takes about {plan}; {advice(demand, budget)}"


def _candidates(demand: Demand, streamed: bool) -> list[Smaller]:
    """Smaller settings in the order to try them: one change, then all but the picture's size, then all."""
    request = demand.request
    caches = KV_CACHES[KV_CACHES.index(request.settings.kv_cache) + 1 :]
    weights = None if streamed or demand.weights.scheme is not None else "int4"
    grids = _smaller_grids(request.grid_h, request.grid_w)
    least = Smaller(batch=1 if len(request.prompts) > 1 else None, weights=weights)
    return [
        *(Smaller(batch=batch) for batch in range(len(request.prompts) - 1, 0, -1)),
        *(Smaller(kv_cache=cache) for cache in caches),
        *([Smaller(weights=weights)] if weights else []),
        *(Smaller(grid=grid) for grid in grids),
        *(replace(least, kv_cache=cache) for cache in caches or (None,)),
        *(replace(least, kv_cache=caches[-1] if caches else None, grid=grid) for grid in grids),
    ]


def _smaller_grids(grid_h: int, grid_w: int) -> list[tuple[int, int]]:
    """Sizes of the same aspect ratio as nearly as whole grid units allow, the largest first."""
    longest = max(grid_h, grid_w) // CODES_PER_UNIT

    def scaled(side: int, units: int) -> int:
        return CODES_PER_UNIT * max(1, round(side // CODES_PER_UNIT * units / longest))

    return [(scaled(grid_h, units), scaled(grid_w, units)) for units in range(longest - 1, 0, -1)]
