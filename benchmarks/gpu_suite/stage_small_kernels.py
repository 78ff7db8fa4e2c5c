"""The small kernels at the 7B's shapes, over numbers of warps."""

from __future__ import annotations

import itertools

import torch

from lumina_core.timing.steps import copy_bandwidth
from lumina_core.timing.synthetic import SYNTHETIC

from ..kernels import rest
from ..kernels.clock import Clock
from .context import Context, emit_sweeps, require_triton

ROWS, WARPS, BLOCKS = (2, 32, 64, 128), (1, 2, 4, 8), (256, 512, 1024)
DRY_ROWS = (2,)


@torch.inference_mode()
def run(context: Context) -> None:
    require_triton()
    clock = Clock(context.device, copy_bandwidth(context.device))
    config = SYNTHETIC[context.model].config
    emit_sweeps(
        rest.sweep(
            kernel,
            rest.Problem(config, rows, rest.splits_in_use(kernel, config)),
            [{}] if context.dry_run else rest.tiles_of(kernel, WARPS, BLOCKS),
            clock,
        )
        for kernel, rows in itertools.product(rest.ARGUMENTS, DRY_ROWS if context.dry_run else ROWS)
    )
