"""A picture of 256×256 with the 7B's shapes: the loop against the sum of its steps, memory against its estimate."""

from __future__ import annotations

from dataclasses import replace

import torch

from lumina_core.decoding.memory_plan import Demand, plan_memory
from lumina_core.decoding.request import Request
from lumina_core.decoding.settings import DecodeResult, DecodeSettings
from lumina_core.device import peak_bytes
from lumina_core.memory import weights_of
from lumina_core.model.compile import AUTO, set_compile
from lumina_core.pipeline import Lumina
from lumina_core.timing.steps import PROMPT_TOKENS, StepTimer, copy_bandwidth
from lumina_core.timing.synthetic import SYNTHETIC

from .context import Context, emit
from .models import KV_CACHE, synthetic

WEIGHTS, SIDE, WINDOW, STEPS = "int4", 32, 32, 20
DRY_SIDE, DRY_WINDOW = 4, 4


def run(context: Context) -> None:
    side, window = (DRY_SIDE, DRY_WINDOW) if context.dry_run else (SIDE, WINDOW)
    transformer = synthetic(context, WEIGHTS)
    # A fixed window, so that every step is of one kind.
    settings = DecodeSettings(window_size=window, adapt_window=False, kv_cache=KV_CACHE)
    request = Request([[9] * PROMPT_TOKENS], side, side, settings=settings)
    lumina = Lumina(set_compile(transformer, "auto"), SYNTHETIC[context.model].vocabulary)
    result = _draw(context, lumina, request, "first")
    if result.seconds < context.left / 4:
        # By the graphs of the first, as the second picture of a user.
        result = _draw(context, lumina, request, "second")
        adaptive = replace(request, settings=replace(settings, adapt_window=True))
        _draw(context, lumina, adaptive, "adaptive window")
    lumina.runs.free()
    timer = StepTimer(transformer, PROMPT_TOKENS + side**2, window, settings, request.canvas)
    emit(**_compare_with_steps(context, timer, result))


def _draw(context: Context, lumina: Lumina, request: Request, run_name: str) -> DecodeResult:
    """Draws and emits seconds, memory and its estimate."""
    sizes, device, transformer = SYNTHETIC[context.model], context.device, lumina.transformer
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    result = lumina.sample(request)
    plan = plan_memory(Demand.on(device, AUTO, sizes.config, weights_of(transformer), request))
    emit(
        run=run_name,
        picture=f"{8 * request.grid_w}x{8 * request.grid_h}",
        window=request.settings.window_size,
        seconds=result.seconds,
        warm_up_seconds=result.warm_up_seconds,
        forwards=result.nfe,
        tokens=result.sampled_tokens,
        kernel=result.matmul_kernel,
        attention=result.attention_kernel,
        peak_bytes=peak_bytes(device),
        # Includes what captured steps hold between replays.
        reserved_bytes=torch.cuda.max_memory_reserved(device) if cuda else None,
        planned_bytes=plan.weights + plan.run,
        kept_bytes=lumina.runs.nbytes,
    )
    return result


def _compare_with_steps(context: Context, timer: StepTimer, result: DecodeResult) -> dict[str, object]:
    """The loop without its warm-up, against as many steps as it had at the middle of the picture."""
    middle = PROMPT_TOKENS + result.sampled_tokens // 2
    steps = 2 if context.dry_run else STEPS
    one = timer.measure(timer.settings.window_size, middle, steps, copy_bandwidth(context.device))
    loop, sum_of_steps = result.seconds - result.warm_up_seconds, result.nfe * one.seconds
    return {
        "loop_seconds": loop,
        "steps_seconds": sum_of_steps,
        "step_ms": 1000 * one.seconds,
        "captured": one.captured,
        "loop_over_steps": loop / sum_of_steps,
    }
