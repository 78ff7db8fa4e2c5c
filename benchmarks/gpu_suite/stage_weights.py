"""Decoding steps of the 7B's sizes with other weights than int4, at one context."""

from __future__ import annotations

from lumina_core.device import free_memory
from lumina_core.timing.steps import copy_bandwidth

from .context import Context, emit
from .models import figure_of, synthetic, timer_of

WEIGHTS = ("int8", "bf16", "int8-dynamic", "fp8")
WINDOWS, PLACE, STEPS = (1, 32), 5120, 20


def run(context: Context) -> None:
    bandwidth, place = copy_bandwidth(context.device), 128 if context.dry_run else PLACE
    for weights in WEIGHTS:
        transformer = synthetic(context, weights)
        timer = timer_of(transformer, (place,), max(WINDOWS))
        for window in WINDOWS:
            one = timer.measure(window, place, 2 if context.dry_run else STEPS, bandwidth)
            emit(**figure_of(one, weights, transformer.compile_choice))
        del transformer, timer
        free_memory()
