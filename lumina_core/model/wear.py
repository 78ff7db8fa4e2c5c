"""A transformer with LoRAs: the same weights, and low-rank branches beside them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TypeVar

from torch import nn

from ..lora.applied import AppliedLora, in_use
from ..lora.keys import targets
from ..lora.linear import LowRankLinear, Parts, parts_by_layer, with_branch
from .layers import Block
from .transformer import Transformer

Module = TypeVar("Module", bound=nn.Module)


def wear(transformer: Transformer, loras: Sequence[AppliedLora]) -> Transformer:
    """The transformer with LoRAs, whose branches are on its device and in its dtype; without any, itself.

    It shares all weights with the one that it is made of, which stays as it is: what moves them moves them for both.
    Raises InputError where the values are too large for the dtype.
    """
    used = in_use(loras)
    if not used:
        return transformer
    assert not transformer.loras, "the transformer has LoRAs already"
    by_layer = parts_by_layer(used, transformer.config)
    blocks = []
    for index, block in enumerate(transformer.blocks):
        parts = {linear: parts for (layer, linear), parts in by_layer.items() if layer == index}
        blocks.append(_block(transformer, block, parts))
    worn = _copy(transformer, {"layers": nn.ModuleList(blocks)})
    worn.loras = used
    return worn


def branches(transformer: Transformer) -> list[LowRankLinear]:
    """The linear layers of a transformer that have a branch."""
    return [module for module in transformer.layers.modules() if isinstance(module, LowRankLinear)]


def branches_nbytes(transformer: Transformer) -> int:
    """Bytes of the branches of a transformer."""
    return sum(one.down.nbytes + one.up.nbytes for one in branches(transformer))


def _block(transformer: Transformer, block: Block, parts: Mapping[str, Parts]) -> Block:
    shapes = targets(transformer.config)

    def with_branches(part: nn.Module) -> nn.Module:
        """A copy of attention or MLP, with branches beside its linear layers."""
        own = dict[str, nn.Module]()
        for name, child in part.named_children():
            if name in parts:
                shape = shapes[name].rows, shapes[name].inputs
                own[name] = with_branch(child, parts[name], shape, transformer.dtype, transformer.device)
        return _copy(part, own)

    return _copy(block, {name: with_branches(getattr(block, name)) for name in ("self_attn", "mlp")})


def _copy(module: Module, children: Mapping[str, nn.Module]) -> Module:
    """A copy that shares everything with the module but these children."""
    copied = copy.copy(module)
    copied._modules = {**module._modules, **children}
    return copied
