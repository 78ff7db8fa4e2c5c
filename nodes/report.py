"""The report of a run as text, and its acceptance map as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..lumina_core.decoding.settings import DecodeResult
from ..lumina_core.kernels.kv_tensor import AUTO
from ..lumina_core.lora.applied import AppliedLora, in_use
from ..lumina_core.quant.weights import WeightsPlan

# From the first step to the last: dark blue, teal, green, yellow.
RAMP = ((0.10, 0.10, 0.40), (0.10, 0.45, 0.55), (0.30, 0.70, 0.40), (0.98, 0.90, 0.25))
ODD_STEP_SHADE = 0.78
GIVEN_GREY = 0.5


def report_text(result: DecodeResult, weights: WeightsPlan, kv_cache: str, loras: Sequence[AppliedLora] = ()) -> str:
    """Settings, forwards, accepted tokens, seconds, kernels and log-likelihoods of a run, as text for the user.

    `kv_cache` is what the user chose, `loras` those of the model.
    """
    settings, tokens = result.settings, result.sampled_tokens
    pictures, grid_h, grid_w = result.codes.shape
    window = "" if settings.decoder == "ar" else f", window {settings.window_size}"
    tree = f", tree {settings.nodes}" if settings.nodes else ""
    cache = weights.dtype_name if settings.kv_cache == AUTO else settings.kv_cache
    by_auto = "" if settings.kv_cache == kv_cache else f" (chosen by {kv_cache})"
    rate = "-" if result.tokens_per_second is None else f"{result.tokens_per_second:.1f}"
    took, speed = f"{result.seconds:.2f} s", f"{rate} tokens a second"
    if result.warm_up_seconds:
        took, speed = f"{took}, of which {result.warm_up_seconds:.2f} s warm-up", f"{speed} without the warm-up"
    histogram = ", ".join(f"{length} x{count}" for length, count in result.accept_histogram.items())
    likelihoods = ", ".join(f"{nats:.3f}" for nats in result.log_likelihood_per_code)
    lines = (
        f"{pictures} of {8 * grid_w}x{8 * grid_h}, seed {settings.seed}, decoder {settings.decoder}{window}{tree}",
        f"{weights.name} weights, {cache} cache{by_auto}",
        *([f"LoRAs: {', '.join(map(str, used))}"] if (used := in_use(loras)) else []),
        f"{tokens} tokens in {result.nfe} forwards: {tokens / max(1, result.nfe):.2f} a forward",
        f"{took}; {speed}",
        f"matmuls: {result.matmul_kernel}; attention: {result.attention_kernel}",
        f"tokens accepted in a forward (ends of row included): {histogram}",
        f"log-likelihood of each picture, in nats per code: {likelihoods}",
    )
    return "\n".join([*lines, *_given_lines(result)])


def _given_lines(result: DecodeResult) -> list[str]:
    """How likely the given codes after a mask are, where they were scored."""
    if result.given_log_likelihood is None:
        return []
    nats, size = ", ".join(f"{one:.1f}" for one in result.given_log_likelihood), result.effective_sample_size
    return [
        f"log-likelihood of the given codes after what is drawn, in nats: {nats}; Best of N chooses by it",
        f"effective sample size: {size:.2f} of {len(result.given_log_likelihood)}",
    ]


def acceptance_map(steps: Tensor, cell: int) -> Tensor:
    """A picture [B,h·cell,w·cell,3] in 0…1 of `steps` [B,h,w], the forward that accepted each code.

    The colour follows the order of the forwards; every other forward is darker. Given codes (−1) are grey.
    """
    ramp = torch.tensor(RAMP)
    last = steps.amax(dim=(1, 2), keepdim=True).clamp_min(1)
    place = (steps.clamp_min(0) / last * (len(RAMP) - 1)).unsqueeze(-1)
    low = place.squeeze(-1).floor().long().clamp_max(len(RAMP) - 2)
    colour = torch.lerp(ramp[low], ramp[low + 1], place - low.unsqueeze(-1))
    colour = torch.where((steps % 2 == 1).unsqueeze(-1), colour * ODD_STEP_SHADE, colour)
    colour = torch.where((steps < 0).unsqueeze(-1), torch.tensor(GIVEN_GREY), colour)
    return colour.repeat_interleave(cell, 1).repeat_interleave(cell, 2)
