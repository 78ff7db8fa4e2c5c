"""Memory of a run: what it takes, whether it fits, and smaller settings that would."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from functools import lru_cache

import torch

from .checkpoint.config import TransformerConfig
from .decoding.loop import cache_length
from .decoding.request import Request
from .device import gigabytes
from .errors import OutOfMemory
from .kernels.kv_tensor import KV_CACHES
from .model.kv_cache import KVCache
from .model.load import empty_transformer, weight_bytes
from .model.transformer import Transformer
from .movqgan.autoencoder import MoVQGAN
from .movqgan.config import STRIP_ROWS, MoVQGANConfig
from .pictures.sizes import CODE_PIXELS, CODES_PER_UNIT, HEADER_LENGTH
from .quant.linear import QuantizedLinear
from .quant.schemes import SCHEMES
from .quant.weights import WeightsPlan

MOVQGAN_ITEM_BYTES = 4
# For every code's logit in a window, alive at once while tokens are sampled: the noise is made of 64-bit hashes.
DRAW_BYTES_PER_LOGIT = 44
# A mask of one byte, and the floats that attention makes of it.
MASK_BYTES = 5
# Keys, values, and one of them while it is dequantised.
READ_COPIES = 3


@dataclass(frozen=True)
class Demand:
    """A run: the models' sizes, how the weights are stored, the request, and whether steps are CUDA graphs."""

    config: TransformerConfig
    weights: WeightsPlan
    request: Request
    movqgan: MoVQGANConfig | None = None
    captured: bool = False

    @property
    def rows(self) -> int:
        """Sequences in a forward."""
        return len(self.request.prompts) * (2 if self.request.settings.guided else 1)


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of a run.

    `forward` is the widest forward without weights and cache. `decode` is MoVQGAN decoding one picture whole after the
    cache is freed, `decode_in_strips` the same in strips.
    """

    weights: int
    movqgan: int
    cache: int
    forward: int
    decode: int
    decode_in_strips: int

    @property
    def run(self) -> int:
        """Cache and forward, without the weights."""
        return self.cache + self.forward

    @property
    def least_decode(self) -> int:
        return min(self.decode, self.decode_in_strips)

    @property
    def total(self) -> int:
        """The least peak of the run, weights included."""
        return self.weights + self.movqgan + max(self.run, self.least_decode)

    def __str__(self) -> str:
        parts = {"weights": self.weights + self.movqgan, "cache": self.cache, "forward": self.forward}
        listed = ", ".join(f"{name} {gigabytes(part)}" for name, part in {**parts, "decode": self.least_decode}.items())
        return f"{gigabytes(self.total)} ({listed})"


@dataclass(frozen=True)
class Budget:
    """Bytes that a run may take. `with_weights` is False where a memory manager streams the weights in."""

    capacity: float
    with_weights: bool = True

    def fits(self, demand: Demand) -> bool:
        plan = plan_memory(demand)
        return (plan.total if self.with_weights else plan.run) <= self.capacity


def check_fits(demand: Demand, budget: Budget) -> None:
    """Raises OutOfMemory, naming smaller settings that fit, when a run is estimated to take more than the budget."""
    if not budget.fits(demand):
        raise OutOfMemory(
            f"{demand.request} would take about {plan_memory(demand)} and there are {gigabytes(budget.capacity)}; "
            + advice(demand, budget)
        )


def plan_memory(demand: Demand) -> MemoryPlan:
    """The estimated bytes of a run."""
    config, request, dtype = demand.config, demand.request, demand.weights.dtype
    length = cache_length(request.canvas, request.longest_prompt, request.settings)
    weights, scratch = _weights_and_scratch(config, demand.weights)
    codec, grid = demand.movqgan, (request.grid_h, request.grid_w)
    return MemoryPlan(
        weights=weights,
        movqgan=0 if codec is None else movqgan_bytes(codec),
        cache=KVCache.bytes_needed(config, demand.rows, length, dtype, request.settings.kv_cache),
        forward=_forward_bytes(demand, length) + scratch,
        decode=0 if codec is None else codec.picture_bytes(*grid, MOVQGAN_ITEM_BYTES),
        decode_in_strips=0 if codec is None else codec.picture_bytes(*grid, MOVQGAN_ITEM_BYTES, STRIP_ROWS),
    )


def weights_of(transformer: Transformer) -> WeightsPlan:
    """How a transformer's weights are stored."""
    schemes = (layer.scheme for layer in transformer.layers.modules() if isinstance(layer, QuantizedLinear))
    return WeightsPlan(transformer.dtype, next(schemes, None))


@lru_cache(maxsize=8)
def movqgan_bytes(config: MoVQGANConfig) -> int:
    """Bytes of a MoVQGAN's weights."""
    with torch.device("meta"):
        return MOVQGAN_ITEM_BYTES * sum(part.numel() for part in MoVQGAN(config).parameters())


@lru_cache(maxsize=8)
def _weights_and_scratch(config: TransformerConfig, weights: WeightsPlan) -> tuple[int, int]:
    model = empty_transformer(config, weights)
    return weight_bytes(model, weights.dtype), model.scratch_bytes


def _forward_bytes(demand: Demand, kv_len: int) -> int:
    """Of the widest forward; a captured one is held beside the one that ran before the capture."""
    request = demand.request
    given = request.canvas.given_rows * (request.grid_w + 1)
    prefill = (request.longest_prompt + HEADER_LENGTH + given) * _layer_bytes(demand)
    return max(prefill, _window_bytes(demand, kv_len) * (2 if demand.captured else 1))


def _window_bytes(demand: Demand, kv_len: int) -> int:
    config, settings = demand.config, demand.request.settings
    blocks = demand.rows * settings.width * (_layer_bytes(demand) + kv_len * MASK_BYTES)
    if settings.kv_cache != "auto":
        heads = config.num_key_value_heads * config.head_dim
        blocks += READ_COPIES * demand.rows * kv_len * heads * demand.weights.dtype.itemsize
    pictures = len(demand.request.prompts)
    return max(blocks, pictures * settings.width * config.codebook_size * DRAW_BYTES_PER_LOGIT)


def _layer_bytes(demand: Demand) -> int:
    """Of a token in a layer, in attention or MLP: input, its norm, results of matmuls and their parts."""
    config = demand.config
    query = config.num_attention_heads * config.head_dim
    attention = 5 * query + 2 * config.num_key_value_heads * config.head_dim
    return (3 * config.hidden_size + max(attention, 4 * config.intermediate_size)) * demand.weights.dtype.itemsize


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
        smaller = Request(request.prompts[: self.batch], grid_h, grid_w, given, settings)
        return replace(demand, weights=replace(demand.weights, scheme=scheme), request=smaller)


def advice(demand: Demand, budget: Budget) -> str:
    """Smaller settings with which a run fits: of each kind the first that does, or else the first combination."""
    fitting: dict[tuple[bool, ...], Smaller] = {}
    for smaller in _candidates(demand, budget.with_weights):
        if fitting and sum(smaller.kind) > 1:
            break
        if smaller.kind not in fitting and budget.fits(smaller.apply(demand)):
            fitting[smaller.kind] = smaller
    listed = ", or ".join(map(str, fitting.values()))
    return f"smaller settings that fit: {listed}" if fitting else "no picture of this model would fit"


def _candidates(demand: Demand, with_weights: bool) -> list[Smaller]:
    """Smaller settings in the order to try them: one change, then all but the picture's size, then all."""
    request = demand.request
    caches = KV_CACHES[KV_CACHES.index(request.settings.kv_cache) + 1 :]
    weights = "int4" if with_weights and demand.weights.scheme is None else None
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
