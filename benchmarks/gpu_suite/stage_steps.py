"""Decoding steps of the 7B's sizes with int4 weights and the 8-bit cache, captured and not, then with draft trees."""

from __future__ import annotations

import itertools

from lumina_core.model.compile import set_compile
from lumina_core.model.transformer import Transformer
from lumina_core.timing.steps import StepTimer, copy_bandwidth

from .builds import CONTEXTS
from .context import Context, emit
from .models import figure_of, synthetic, timer_of

WEIGHTS = "int4"
WINDOWS = (1, 32, 16, 64, 8, 24)
STEPS = {"auto": 20, "off": 10}
DRY_WINDOWS, DRY_CONTEXTS = (1, 8), (128,)
# Nodes of a tree, and the windows that it is timed with, in the middle of a picture.
TREES, TREE_WINDOWS, TREE_CONTEXT = (16, 8, 32), (32, 16), 5120


def run(context: Context) -> None:
    bandwidth = copy_bandwidth(context.device)
    emit(copy_bytes_per_second=bandwidth)
    windows, contexts = (DRY_WINDOWS, DRY_CONTEXTS) if context.dry_run else (WINDOWS, CONTEXTS)
    transformer = synthetic(context, WEIGHTS)
    timer = timer_of(transformer, contexts, max(windows), tree=0)
    uncaptured = 0
    for compile_choice, place, window in itertools.product(STEPS, contexts, windows):
        set_compile(transformer, compile_choice)
        one = timer.measure(window, place, 2 if context.dry_run else STEPS[compile_choice], bandwidth)
        emit(**figure_of(one, WEIGHTS, compile_choice))
        uncaptured += compile_choice != "off" and not one.captured
    uncaptured += _with_trees(context, transformer, bandwidth)
    if not context.dry_run:
        check_fast(transformer, timer, uncaptured)


def _with_trees(context: Context, transformer: Transformer, bandwidth: float) -> int:
    """Times captured steps with draft trees; returns how many were not captured."""
    set_compile(transformer, "auto")
    trees, windows, place = ((4,), (8,), 128) if context.dry_run else (TREES, TREE_WINDOWS, TREE_CONTEXT)
    uncaptured = 0
    for tree in trees:
        timer = timer_of(transformer, (place,), max(windows), tree)
        for window in windows:
            one = timer.measure(window, place, 2 if context.dry_run else STEPS["auto"], bandwidth)
            emit(**figure_of(one, WEIGHTS, "auto"))
            uncaptured += not one.captured
        del timer
    return uncaptured


def check_fast(transformer: Transformer, timer: StepTimer, uncaptured: int) -> None:
    """Raises RuntimeError unless steps were captured, fused and run by Triton kernels, as a GPU should."""
    kernels = transformer.matmul_kernel, str(timer.cache.kernels.attention)
    slow = [name for name in kernels if not name.startswith("triton")]
    slow += [] if timer.cache.kernels.blocks else ["blocks not fused"]
    slow += [f"{uncaptured} settings not captured"] if uncaptured else []
    if slow:
        raise RuntimeError(f"steps ran the slow way: {'; '.join(slow)}")
