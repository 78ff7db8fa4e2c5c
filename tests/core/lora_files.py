"""LoRA files of random values, in the forms of several programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.lora.applied import AppliedLora
from lumina_core.lora.file import Lora, LowRank
from lumina_core.lora.keys import module_name, targets

MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Pairs = dict[tuple[int, str], tuple[Tensor, Tensor]]


def random_pairs(
    config: TransformerConfig, rank: int = 4, matrices: Sequence[str] = MATRICES, seed: int = 0, size: float = 0.3
) -> Pairs:
    """A [rank,in] and B [out,rank] of each matrix, of about `size`; every other layer has one rank more."""
    generator, found = torch.Generator().manual_seed(seed), Pairs()
    for layer in range(config.num_hidden_layers):
        for matrix in matrices:
            target, own = targets(config)[matrix], rank + layer % 2
            down = torch.randn(own, target.inputs, generator=generator) * target.inputs**-0.5
            found[layer, matrix] = down, torch.randn(target.rows, own, generator=generator) * size * own**-0.5
    return found


def random_lora(config: TransformerConfig, strength: float = 1.0, **how: Any) -> AppliedLora:
    """A LoRA of `random_pairs`, without a file."""
    matrices = {place: LowRank(down, up, 1.0) for place, (down, up) in random_pairs(config, **how).items()}
    return AppliedLora(Lora(Path("random"), matrices, ""), strength)


def peft(module: str) -> tuple[str, str]:
    return tuple(f"base_model.model.{module}.lora_{part}.weight" for part in "AB")


def peft_named(module: str) -> tuple[str, str]:
    return tuple(f"base_model.model.{module}.lora_{part}.default.weight" for part in "AB")


def diffusers(module: str) -> tuple[str, str]:
    return tuple(f"transformer.{module}.lora_{part}.weight" for part in "AB")


def diffusers_old(module: str) -> tuple[str, str]:
    return tuple(f"transformer.{module}.lora.{part}.weight" for part in ("down", "up"))


def kohya(module: str) -> tuple[str, str]:
    return tuple(f"lora_unet_{module.replace('.', '_')}.lora_{part}.weight" for part in ("down", "up"))


FORMS: Mapping[str, Callable[[str], tuple[str, str]]] = {
    form.__name__: form for form in (peft, peft_named, diffusers, diffusers_old, kohya)
}


def tensors_of(pairs: Pairs, form: Callable[[str], tuple[str, str]] = peft) -> dict[str, Tensor]:
    tensors = {}
    for (layer, matrix), values in pairs.items():
        tensors |= dict(zip(form(module_name(layer, matrix)), values, strict=True))
    return tensors


def save_lora(
    path: Path,
    pairs: Pairs,
    form: Callable[[str], tuple[str, str]] = peft,
    metadata: dict[str, str] | None = None,
    **others: Tensor,
) -> Path:
    """A file of the pairs, and of other tensors by name."""
    tensors = {**tensors_of(pairs, form), **others}
    save_file({name: one.contiguous() for name, one in tensors.items()}, path, metadata)
    return path
