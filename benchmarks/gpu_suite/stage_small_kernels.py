"""The small kernels at the 7B's shapes, over warps."""

from __future__ import annotations

import importlib.util
import itertools

import torch

from lumina_core.synthetic import SYNTHETIC
from lumina_core.timing import copy_bandwidth

from ..kernels import rest
from ..kernels.clock import Clock
from .stage import Context, Skipped, emit_swept

ROWS, WARPS = (2, 32, 64, 128), (None, 1, 2, 4, 8)
DRY_ROWS, DRY_WARPS = (2,), (None,)


@torch.inference_mode()
def run(context: Context) -> None:
    if importlib.util.find_spec("triton") is None:
        raise Skipped("triton is not installed: there are no kernels")
    clock = Clock(context.device, copy_bandwidth(context.device))
    config = SYNTHETIC[context.model].transformer
    rows, warps = (DRY_ROWS, DRY_WARPS) if context.dry_run else (ROWS, WARPS)
    for kernel, count in itertools.product(rest.ARGUMENTS, rows):
        problem = rest.Problem(config, count, rest.splits_in_use(kernel, config))
        emit_swept(rest.sweep(kernel, problem, warps, clock))
