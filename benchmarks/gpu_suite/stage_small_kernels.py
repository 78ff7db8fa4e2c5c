"""The small kernels at the 7B's shapes, over numbers of warps and kinds of rules."""

from __future__ import annotations

import itertools

import torch

from lumina_core.kernels.window_state import COUPLED, GUMBEL
from lumina_core.timing.steps import copy_bandwidth
from lumina_core.timing.synthetic import SYNTHETIC

from ..kernels import rest
from ..kernels.clock import Clock
from .context import Context, emit_sweeps, require_triton

ROWS, WARPS, BLOCKS = (2, 32, 64, 128), (1, 2, 4, 8), (256, 512, 1024)
# `sjd` has the kernels of `coupled`.
RULES = (GUMBEL, COUPLED)
DRY_ROWS = (2,)


@torch.inference_mode()
def run(context: Context) -> None:
    require_triton()
    clock = Clock(context.device, copy_bandwidth(context.device))
    config = SYNTHETIC[context.model].config
    emit_sweeps(
        rest.sweep(
            kernel,
            rest.Problem(config, rows, rest.splits_in_use(kernel, config), rule=rule),
            [{}] if context.dry_run else rest.tiles_of(kernel, WARPS, BLOCKS),
            clock,
        )
        for kernel, rows in itertools.product(rest.ARGUMENTS, DRY_ROWS if context.dry_run else ROWS)
        for rule in (RULES if kernel in rest.RULED else RULES[:1])
    )
