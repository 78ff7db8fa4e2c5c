"""Trainable low-rank updates around the frozen, plain or quantised, linear layers of a transformer's blocks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lumina_core.errors import InputError
from lumina_core.kernels.linear import linear_kernel
from lumina_core.lora.keys import Target
from lumina_core.lora.keys import targets as lora_targets
from lumina_core.model.layers import Block
from lumina_core.model.transformer import Transformer
from lumina_core.quant.linear import QuantizedLinear

# The published names of the rows of each linear layer of a block, by the module that holds it.
PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "self_attn.qkv_proj": ("q_proj", "k_proj", "v_proj"),
        "self_attn.o_proj": ("o_proj",),
        "mlp.gate_up_proj": ("gate_proj", "up_proj"),
        "mlp.down_proj": ("down_proj",),
    }
)
TARGETS = tuple(part for parts in PARTS.values() for part in parts)
PREFIX = "base_model.model.model.layers"


class FrozenMatmul(torch.autograd.Function):
    """A quantised layer's own matmul; the gradient of its input is by the weight, dequantised some rows at a time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return layer(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        layer: QuantizedLinear = ctx.layer
        total = torch.zeros(*grad.shape[:-1], layer.in_features, dtype=torch.float32, device=grad.device)
        for first in range(0, layer.out_features, layer.rows_at_a_time):
            end = min(layer.out_features, first + layer.rows_at_a_time)
            total += grad[..., first:end] @ layer.weight_rows(first, end, grad)
        return total.to(grad.dtype), None


class LoRALinear(nn.Module):
    """A frozen layer plus alpha / rank · B·A for parts of its outputs.

    `widths` are the outputs of each part, by name; those in `targets` have a `down` (A) [rank,in] and an `up` (B)
    [width,rank], both float32. With `enabled` false it is the frozen layer.
    """

    def __init__(self, base: Any, widths: Mapping[str, int], targets: Sequence[str], rank: int, alpha: float):
        super().__init__()
        self.base, self.widths, self.scale, self.enabled = base, dict(widths), alpha / rank, True
        self.in_features, self.out_features = base.in_features, base.out_features
        device, trained = next(base.parameters()).device, [name for name in widths if name in targets]
        self.down = nn.ParameterDict({name: torch.empty(rank, base.in_features, device=device) for name in trained})
        self.up = nn.ParameterDict({name: torch.zeros(widths[name], rank, device=device) for name in trained})

    @property
    def backend_name(self) -> str:
        """The kernel of the frozen layer."""
        return getattr(self.base, "backend_name", None) or linear_kernel(self.base.weight)

    def forward(self, x: Tensor) -> Tensor:
        quantised = isinstance(self.base, QuantizedLinear) and torch.is_grad_enabled()
        y = FrozenMatmul.apply(x, self.base) if quantised else self.base(x)
        return y + self._update(x) if self.enabled else y

    def _update(self, x: Tensor) -> Tensor:
        parts = [self._part(name, x) for name in self.widths]
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]

    def _part(self, name: str, x: Tensor) -> Tensor:
        if name not in self.down:
            return x.new_zeros(*x.shape[:-1], self.widths[name])
        inner = F.linear(x, self.down[name].to(x.dtype)) * self.scale
        return F.linear(inner, self.up[name].to(x.dtype))


@dataclass(frozen=True)
class LoRA:
    """The trainable layers of a transformer, by the names of their modules after PEFT's prefix."""

    layers: Mapping[str, LoRALinear]

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Every A and B by its key, as PEFT writes them."""
        found = {}
        for prefix, layer in self.layers.items():
            for name in layer.down:
                key = f"{prefix.rpartition('.')[0]}.{name}"
                found[f"{key}.lora_A.weight"], found[f"{key}.lora_B.weight"] = layer.down[name], layer.up[name]
        return found

    def read(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes the values of tensors by their keys."""
        with torch.no_grad():
            for key, parameter in self.parameters.items():
                parameter.copy_(tensors[key])

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """The transformer is the frozen one within."""
        for layer in self.layers.values():
            layer.enabled = False
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.enabled = True


def attach(transformer: Transformer, rank: int, alpha: float, targets: Sequence[str], seed: int) -> LoRA:
    """Puts trainable layers around the blocks' linear layers that hold a target, in place.

    A is random, B zero: the transformer's results do not change. Raises InputError for quantised weights in an order
    that cannot be dequantised.
    """
    layers, matrices = {}, lora_targets(transformer.config)
    for index, block in enumerate(transformer.blocks):
        for place, parts in PARTS.items():
            if any(part in targets for part in parts):
                layers[f"{PREFIX}.{index}.{place}"] = _wrap(block, place, matrices, rank, alpha, targets)
    lora, generator = LoRA(layers), torch.Generator().manual_seed(seed)
    for layer in layers.values():
        for down in layer.down.values():
            bound = 1 / math.sqrt(layer.in_features)
            down.data.copy_(torch.empty(down.shape).uniform_(-bound, bound, generator=generator))
    return lora


def _wrap(
    block: Block, place: str, matrices: Mapping[str, Target], rank: int, alpha: float, targets: Sequence[str]
) -> LoRALinear:
    module, _, name = place.partition(".")
    holder = block.get_submodule(module)
    base = getattr(holder, name)
    if isinstance(base, QuantizedLinear) and base.repacked and base.backend.packed_rows is None:
        raise InputError(
            f"{base.scheme.name} weights are multiplied by {base.backend.name} here, whose order cannot be "
            "dequantised for training; use --weights int8 or bf16"
        )
    layer = LoRALinear(base, {part: matrices[part].rows for part in PARTS[place]}, targets, rank, alpha)
    setattr(holder, name, layer)
    return layer
