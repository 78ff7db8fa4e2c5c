"""The synthetic models that several stages measure."""

from __future__ import annotations

from typing import Any

import torch

from lumina_core.decoding.settings import DecodeSettings
from lumina_core.model.transformer import Transformer
from lumina_core.quant.weights import plan_weights
from lumina_core.timing.steps import ACCEPTED_FROM, StepTime, StepTimer
from lumina_core.timing.synthetic import SYNTHETIC, make_transformer

from .context import Context, emit

KV_CACHE = "int8"


def synthetic(context: Context, weights: str) -> Transformer:
    """A transformer of random weights that computes in bf16; emits its matmul kernel."""
    config = SYNTHETIC[context.model].config
    transformer = make_transformer(config, plan_weights(weights, None, torch.bfloat16), context.device)
    emit(model=context.model, weights=weights, kernel=transformer.matmul_kernel)
    return transformer


def timer_of(transformer: Transformer, contexts: tuple[int, ...], widest: int, tree: int | None = None) -> StepTimer:
    """A timer of steps with the 8-bit cache and a draft tree, None as users have it; emits its attention kernel."""
    timer = StepTimer(transformer, max(contexts), widest, DecodeSettings(kv_cache=KV_CACHE, tree=tree))
    kernels = timer.cache.kernels
    emit(kv=KV_CACHE, attention=str(kernels.attention), fused_blocks=kernels.blocks is not None)
    return timer


def figure_of(one: StepTime, weights: str, compile_choice: str) -> dict[str, Any]:
    """A step's time as a figure."""
    return {
        "weights": weights,
        "kv": KV_CACHE,
        "compile": compile_choice,
        "captured": one.captured,
        "window": one.window,
        "tree": one.tree,
        "context": one.context,
        "kv_len": one.kv_len,
        "ms": 1000 * one.seconds,
        "ceiling_ms": 1000 * one.ceiling,
        "share": one.share,
        "first_ms": 1000 * one.first,
        "accepted": one.accepted,
        "accepted_from": ACCEPTED_FROM,
        "tokens_per_second": one.tokens_per_second,
    }
