"""The quantised matmuls at the 7B's shapes, over tiles and splits, and torch's own for comparison."""

from __future__ import annotations

import itertools

import torch

from lumina_core.model.load import linear_shapes
from lumina_core.timing.steps import copy_bandwidth
from lumina_core.timing.synthetic import SYNTHETIC

from ..kernels import matmul
from ..kernels.clock import Clock
from .builds import ROWS, SCHEMES
from .context import Context, emit, emit_sweeps, require_triton

DRY_TILES = 2


@torch.inference_mode()
def run(context: Context) -> None:
    clock = Clock(context.device, copy_bandwidth(context.device))
    emit(copy_bytes_per_second=clock.bandwidth)
    shapes = linear_shapes(SYNTHETIC[context.model].config)
    problems = matmul.problems(shapes, ROWS[:1] if context.dry_run else ROWS)
    if context.dry_run:
        problems = problems[:1]
    for problem in problems:
        for figure in matmul.others(problem, clock):
            emit(**figure)
    require_triton("only torch's own were timed")
    emit_sweeps(
        matmul.sweep(scheme, problem, matmul.tiles_of(scheme, problem)[: DRY_TILES if context.dry_run else None], clock)
        for scheme, problem in itertools.product(SCHEMES, problems)
    )
