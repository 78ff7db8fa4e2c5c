"""What a run takes of a device's memory, foretold before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from .checkpoint.config import TransformerConfig
from .decoding.loop import cache_length
from .decoding.request import Request
from .device import gigabytes
from .model.kv_cache import KVCache
from .model.load import empty_transformer, weight_bytes
from .model.transformer import Transformer
from .movqgan.autoencoder import MoVQGAN
from .movqgan.config import STRIP_ROWS, MoVQGANConfig
from .quant.linear import QuantizedLinear
from .quant.weights import WeightsPlan
from .tokens.vocabulary import HEADER_LENGTH

MOVQGAN_ITEM_BYTES = 4
# Of every code's logit in a window, alive at once while tokens are drawn: the noise is made of 64-bit hashes.
DRAW_BYTES_PER_LOGIT = 44
# A mask of one byte, and the numbers that attention makes of it.
MASK_BYTES = 5
# Keys, values, and one of them on its way out of its few bits.
READ_COPIES = 3


@dataclass(frozen=True)
class Demand:
    """A run: the models' sizes, the form of the weights, what is drawn, and whether its steps are captured."""

    config: TransformerConfig
    weights: WeightsPlan
    request: Request
    movqgan: MoVQGANConfig | None = None
    captured: bool = False

    @property
    def rows(self) -> int:
        """Sequences in a forward."""
        return len(self.request.prompts) * (2 if self.request.settings.guided else 1)

    @property
    def longest_prompt(self) -> int:
        return max(map(len, self.request.prompts))


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of a run. `forward` is what the widest one takes beside weights and cache, `decode` what MoVQGAN takes to
    decode one picture whole, when the cache is gone, `decode_in_strips` where that does not fit.
    """

    weights: int
    movqgan: int
    cache: int
    forward: int
    decode: int
    decode_in_strips: int

    @property
    def run(self) -> int:
        """Beside the weights, while drawing."""
        return self.cache + self.forward

    @property
    def least_decode(self) -> int:
        """What decoding takes, the way that takes less."""
        return min(self.decode, self.decode_in_strips)

    @property
    def total(self) -> int:
        """The most that is held at once, at least."""
        return self.weights + self.movqgan + max(self.run, self.least_decode)

    def __str__(self) -> str:
        parts = {
            "weights": self.weights + self.movqgan,
            "cache": self.cache,
            "forward": self.forward,
            "decode": self.least_decode,
        }
        listed = ", ".join(f"{name} {gigabytes(part)}" for name, part in parts.items())
        return f"{gigabytes(self.total)} ({listed})"


def plan_memory(demand: Demand) -> MemoryPlan:
    """The bytes that a run takes."""
    config, request, dtype = demand.config, demand.request, demand.weights.dtype
    length = cache_length(request.canvas, demand.longest_prompt, request.settings)
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


@lru_cache(maxsize=8)
def _weights_and_scratch(config: TransformerConfig, weights: WeightsPlan) -> tuple[int, int]:
    model = empty_transformer(config, weights)
    return weight_bytes(model, weights.dtype), model.scratch_bytes


@lru_cache(maxsize=8)
def movqgan_bytes(config: MoVQGANConfig) -> int:
    """Bytes of a MoVQGAN's weights."""
    with torch.device("meta"):
        return MOVQGAN_ITEM_BYTES * sum(part.numel() for part in MoVQGAN(config).parameters())


def _forward_bytes(demand: Demand, kv_len: int) -> int:
    """Of the widest forward; a captured one is held beside the one that was run before the capture."""
    window, prefill = _window_bytes(demand, kv_len), _prefill_bytes(demand)
    return max(2 * window if demand.captured else window, prefill)


def _window_bytes(demand: Demand, kv_len: int) -> int:
    config, settings, tokens = demand.config, demand.request.settings, demand.rows * demand.request.settings.width
    blocks = tokens * (_layer_bytes(demand) + kv_len * MASK_BYTES)
    if settings.kv_cache != "auto":
        heads = config.num_key_value_heads * config.head_dim
        blocks += READ_COPIES * demand.rows * kv_len * heads * demand.weights.dtype.itemsize
    pictures = len(demand.request.prompts)
    return max(blocks, pictures * settings.width * config.codebook_size * DRAW_BYTES_PER_LOGIT)


def _prefill_bytes(demand: Demand) -> int:
    given = demand.request.given().shape[1] * (demand.request.grid_w + 1)
    return (demand.longest_prompt + HEADER_LENGTH + given) * _layer_bytes(demand)


def _layer_bytes(demand: Demand) -> int:
    """What a token takes in a layer, in attention or MLP: input, its norm, products and their parts."""
    config = demand.config
    query = config.num_attention_heads * config.head_dim
    attention = 5 * query + 2 * config.num_key_value_heads * config.head_dim
    return (3 * config.hidden_size + max(attention, 4 * config.intermediate_size)) * demand.weights.dtype.itemsize


def weights_of(transformer: Transformer) -> WeightsPlan:
    """How a transformer's weights are stored."""
    schemes = (layer.scheme for layer in transformer.layers.modules() if isinstance(layer, QuantizedLinear))
    return WeightsPlan(transformer.dtype, next(schemes, None))
