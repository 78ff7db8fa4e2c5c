"""The parts of a step: launches and time of each kernel, captured and uncaptured, and the time between them."""

from __future__ import annotations

from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from lumina_core.model.compile import set_compile
from lumina_core.timing.steps import WARM_UP_STEPS, StepTimer, timed

from .context import Context, emit
from .models import synthetic, timer_of

WEIGHTS, WINDOW, PLACE = "int4", 32, 5120
DRY_WINDOW, DRY_PLACE = 8, 128
PROFILED, NAME_LENGTH = 3, 120


def run(context: Context) -> None:
    window, place = (DRY_WINDOW, DRY_PLACE) if context.dry_run else (WINDOW, PLACE)
    transformer = synthetic(context, WEIGHTS)
    timer = timer_of(transformer, (place,), window)
    for compile_choice in ("auto", "off"):
        set_compile(transformer, compile_choice)
        _profile(timer, window, place, context.device, compile_choice)


def _profile(timer: StepTimer, window: int, place: int, device: torch.device, compile_choice: str) -> None:
    steps = timer.step_at(window, place)
    steps.run(WARM_UP_STEPS + 1)
    wall = timed(lambda: steps.run(PROFILED), device) / PROFILED
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as found:
        steps.run(PROFILED)
        if cuda:
            torch.cuda.synchronize(device)
    kernels = sorted(_kernels(found, cuda), key=lambda one: -one["us"])
    if not kernels:
        raise RuntimeError("the profiler reported no kernel")
    setting = {"compile": compile_choice, "captured": steps.captured, "window": window, "context": place}
    total = sum(one["us"] for one in kernels)
    launches = sum(one["calls"] for one in kernels)
    emit(**setting, step_us=1e6 * wall, kernels_us=total, between_us=1e6 * wall - total, launches=launches)
    for one in kernels:
        emit(**setting, **one)


def _kernels(found: Any, cuda: bool) -> list[dict[str, Any]]:
    """Calls and microseconds a step of every kernel, or operation on a CPU."""
    name = "self_device_time_total" if cuda else "self_cpu_time_total"
    return [
        {
            "kernel": event.key[:NAME_LENGTH],
            "calls": event.count / PROFILED,
            "us": getattr(event, name) / PROFILED,
        }
        for event in found.key_averages()
        if getattr(event, name) > 0
    ]
