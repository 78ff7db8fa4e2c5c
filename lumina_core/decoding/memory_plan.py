"""The memory that a run takes, estimated before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from ..checkpoint.config import TransformerConfig
from ..device import gigabytes
from ..lora.applied import AppliedLora, in_use
from ..lora.linear import branch_bytes
from ..model.compile import captures
from ..model.kv_cache import KVCache
from ..model.load import empty_transformer, weight_bytes
from ..movqgan.autoencoder import MoVQGAN
from ..movqgan.config import STRIP_ROWS, MoVQGANConfig
from ..quant.weights import WeightsPlan
from .forward_bytes import Forwards, kernels_expected
from .loop import cache_length
from .request import Request

MOVQGAN_ITEM_BYTES = 4
# Schemes that no Triton kernel multiplies by: a matmul takes scratch memory.
WITHOUT_KERNELS = ("fp8", "int8-dynamic")


@dataclass(frozen=True)
class Demand:
    """A run: the models' sizes, how the weights are stored, the request, and how its forwards are executed.

    `loras` are those of the model.
    """

    config: TransformerConfig
    weights: WeightsPlan
    request: Request
    movqgan: MoVQGANConfig | None = None
    captured: bool = False
    kernels: bool = False
    in_chunks: bool = False
    loras: Sequence[AppliedLora] = ()

    @classmethod
    def on(
        cls,
        device: torch.device,
        compile_choice: str,
        config: TransformerConfig,
        weights: WeightsPlan,
        request: Request,
        movqgan: MoVQGANConfig | None = None,
        loras: Sequence[AppliedLora] = (),
    ) -> Demand:
        """The run as a device executes it, by a choice of COMPILE."""
        kernels = kernels_expected(config, weights.dtype, device)
        how = captures(compile_choice, device), kernels, device.type == "cpu"
        return cls(config, weights, request.with_tree(kernels), movqgan, *how, loras=loras)

    @property
    def forwards(self) -> Forwards:
        how = self.captured, self.kernels, self.in_chunks
        return Forwards(self.config, self.weights.dtype, self.request, *how)

    def with_cache(self, kv_cache: str) -> Demand:
        """The same run with another cache."""
        settings = replace(self.request.settings, kv_cache=kv_cache)
        return replace(self, request=replace(self.request, settings=settings))


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of a run.

    `streamable` are those of the weights that a memory manager can stream in: plain linear weights of the blocks.
    Quantised ones, the code embedding, the head and the norms are always resident. `forward` is the widest forward
    without weights and cache. `decode` is MoVQGAN decoding one picture whole after the cache is freed,
    `decode_in_strips` the same in strips. `loras` are the branches of LoRAs, which stay on the device during a run.
    """

    weights: int
    streamable: int
    movqgan: int
    cache: int
    forward: int
    decode: int
    decode_in_strips: int
    loras: int = 0

    @property
    def run(self) -> int:
        """Cache, forward and LoRAs, without the weights."""
        return self.cache + self.forward + self.loras

    @property
    def least_decode(self) -> int:
        return min(self.decode, self.decode_in_strips)

    @property
    def total(self) -> int:
        """The least peak of the run, weights included."""
        return self.weights + self.movqgan + max(self.run, self.least_decode)

    @property
    def streamed(self) -> MemoryPlan:
        """What is left where a memory manager streams weights in and moves MoVQGAN away until it decodes."""
        resident = self.weights - self.streamable
        return replace(self, weights=resident, streamable=0, movqgan=0, decode=0, decode_in_strips=0)

    def __str__(self) -> str:
        parts = {"weights": self.weights + self.movqgan, "cache": self.cache, "forward": self.forward}
        parts = {**parts, "LoRAs": self.loras, "decode": self.least_decode}
        listed = ", ".join(f"{name} {gigabytes(part)}" for name, part in parts.items() if part)
        return f"{gigabytes(self.total)} ({listed})"


def plan_memory(demand: Demand) -> MemoryPlan:
    """The estimated bytes of a run."""
    config, request, forwards = demand.config, demand.request, demand.forwards
    length = cache_length(request.canvas, request.longest_prompt, request.settings)
    weights, codec, grid = _weights(config, demand.weights), demand.movqgan, (request.grid_h, request.grid_w)
    by_kernels = demand.kernels and demand.weights.name not in WITHOUT_KERNELS
    return MemoryPlan(
        weights=weights.total,
        streamable=weights.streamable,
        movqgan=0 if codec is None else movqgan_bytes(codec),
        cache=KVCache.bytes_needed(config, forwards.rows, length, forwards.dtype, request.settings.kv_cache),
        forward=forwards.bytes_needed(length) + (0 if by_kernels else weights.scratch),
        decode=0 if codec is None else codec.picture_bytes(*grid, MOVQGAN_ITEM_BYTES),
        decode_in_strips=0 if codec is None else codec.picture_bytes(*grid, MOVQGAN_ITEM_BYTES, STRIP_ROWS),
        loras=branch_bytes(in_use(demand.loras), config, forwards.dtype),
    )


@lru_cache(maxsize=8)
def movqgan_bytes(config: MoVQGANConfig) -> int:
    """Bytes of a MoVQGAN's weights."""
    with torch.device("meta"):
        return MOVQGAN_ITEM_BYTES * sum(part.numel() for part in MoVQGAN(config).parameters())


@dataclass(frozen=True)
class _WeightBytes:
    """Of all weights, of those that can be streamed in, and of the scratch memory of a plain matmul."""

    total: int
    streamable: int
    scratch: int


@lru_cache(maxsize=8)
def _weights(config: TransformerConfig, plan: WeightsPlan) -> _WeightBytes:
    model = empty_transformer(config, plan)
    linears = [linear for block in model.blocks for linear in block.linears] if plan.scheme is None else []
    streamable = sum(weight_bytes(linear, plan.dtype) for linear in linears)
    return _WeightBytes(weight_bytes(model, plan.dtype), streamable, model.scratch_bytes)
