"""Attention over the cache at the 7B's shapes, for every kind of cache, window, context and tile."""

from __future__ import annotations

import itertools

import torch

from lumina_core.kernels.kv_tensor import KV_CACHES
from lumina_core.timing.steps import copy_bandwidth
from lumina_core.timing.synthetic import SYNTHETIC

from ..kernels import attention
from ..kernels.clock import Clock
from .builds import CONTEXTS, WIDTHS, cache_slots
from .context import Context, emit, emit_sweeps, require_triton

KINDS = ("int8", *(kind for kind in KV_CACHES if kind != "int8"))
DRY_WIDTHS, DRY_CONTEXTS, DRY_SLOTS, DRY_TILES = (4,), (40,), 128, 2


@torch.inference_mode()
def run(context: Context) -> None:
    require_triton()
    clock = Clock(context.device, copy_bandwidth(context.device))
    emit(copy_bytes_per_second=clock.bandwidth)
    widths, contexts, slots = (WIDTHS, CONTEXTS, cache_slots())
    if context.dry_run:
        widths, contexts, slots = DRY_WIDTHS, DRY_CONTEXTS, DRY_SLOTS
    config = SYNTHETIC[context.model].config
    problems = [attention.Problem(config, *each, slots) for each in itertools.product(KINDS, widths, contexts)]
    emit_sweeps(
        attention.sweep(problem, attention.tiles_of(problem)[: DRY_TILES if context.dry_run else None], clock)
        for problem in problems
    )
