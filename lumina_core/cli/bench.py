"""`bench`: times a decoding step on this device and compares it with the ceiling by memory bandwidth."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..checkpoint.find import open_checkpoint
from ..decoding.loop import is_gpu
from ..decoding.memory_plan import Demand
from ..decoding.request import Request
from ..decoding.settings import MAX_WINDOW, DecodeSettings
from ..device import (
    choose_device,
    choose_dtype,
    device_name,
    explain_out_of_memory,
    peak_bytes,
    reset_peak,
    total_bytes,
)
from ..errors import InputError
from ..files.json_text import dump_json
from ..kernels.kv_tensor import KV_CACHES
from ..memory import Budget, check_fits, choose_weights
from ..model.compile import set_compile
from ..pipeline import Lumina, load_codec
from ..timing.steps import (
    ACCEPTED_FROM,
    PROMPT_TOKENS,
    StepTimer,
    canvas_reaching,
    copy_bandwidth,
    timed,
)
from ..timing.synthetic import SYNTHETIC, make_movqgan, make_transformer
from .common import (
    add_compile_argument,
    add_model_arguments,
    add_tree_argument,
    add_weights_argument,
    check_synthetic,
    demand_of,
    device_budget,
    loading_bar,
)

HELP = "time a decoding step; --synthetic needs no checkpoint"
MAX_CONTEXT = 2**17
# Sides of the picture that a synthetic MoVQGAN decodes; on a CPU 768 takes half an hour.
GPU_SIDE = {"7b": 768, "2b": 768}
SMALL_SIDE = 64


@dataclass(frozen=True)
class Timed:
    """The model to time, the side of the picture that its MoVQGAN decodes, and the loading time."""

    name: str
    lumina: Lumina
    picture_side: int
    load_seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, checkpoint="demo", synthetic=True)
    add_weights_argument(parser)
    add_compile_argument(parser)
    parser.add_argument("--kv", choices=KV_CACHES, default=DecodeSettings().kv_cache, help="dtype of the KV cache")
    parser.add_argument("--windows", type=int, nargs="+", default=[1, 8, 16, 24, 32, 64], help="tokens per step")
    add_tree_argument(parser)
    parser.add_argument("--context", type=int, nargs="+", default=[1024, 5120, 9216], help="tokens in the cache")
    parser.add_argument("--cfg", type=float, default=DecodeSettings().cfg_scale, help="guidance; 1 runs one sequence")
    parser.add_argument("--steps", type=int, default=20, help="steps timed for each window and context")


@torch.inference_mode()
def run(options: argparse.Namespace, on_input_checked: Callable[[], None]) -> None:
    """Prints the ceilings, one JSON line per window and context as soon as it is timed, a table, and a JSON report."""
    _check(options)
    settings = DecodeSettings(cfg_scale=options.cfg, kv_cache=options.kv, tree=options.tree)
    device = choose_device(options.device)
    timed_model = _load(options, device, settings)
    on_input_checked()
    bandwidth = copy_bandwidth(device)
    reset_peak(device)  # counts the model, not the copies of the bandwidth test
    print(f"{timed_model.name} on {device_name(device)}; copying moves {bandwidth / 1e9:.1f} GB/s", flush=True)
    steps = explain_out_of_memory(
        lambda: _time_steps(options, timed_model, settings, bandwidth),
        lambda: "out of memory while timing; use smaller --context or --windows, --kv int8 or --weights int4",
    )
    _print_table(steps)
    decode = _decode_seconds(timed_model, device)
    peak = peak_bytes(device)
    print(f"MoVQGAN decodes {timed_model.picture_side}x{timed_model.picture_side} in {1000 * decode:,.1f} ms")
    print(
        f"loaded in {timed_model.load_seconds:.1f} s; first step {max(step['first'] for step in steps):.2f} s at most"
    )
    print(f"peak {'not known' if peak is None else f'{peak / 2**30:.2f} GiB'}")
    print(dump_json(_report(options, timed_model, device, bandwidth, steps, decode, peak)))


def _check(options: argparse.Namespace) -> None:
    check_synthetic(options)
    for name, values, low, high in (
        ("windows", options.windows, 1, MAX_WINDOW),
        ("context", options.context, PROMPT_TOKENS + 8, MAX_CONTEXT),
        ("steps", [options.steps], 1, 10**6),
    ):
        if bad := [value for value in values if not low <= value <= high]:
            raise InputError(f"{name} is {bad[0]}; expected {low} to {high}")


def _load(options: argparse.Namespace, device: torch.device, settings: DecodeSettings) -> Timed:
    if options.synthetic:
        return _make_synthetic(options, device, settings)
    checkpoint = open_checkpoint(options.checkpoint)
    config, dtype = checkpoint.config, choose_dtype(device)
    weights = choose_weights(options.weights, checkpoint.scheme, dtype, config, total_bytes(device))
    budget, codec = device_budget(device), load_codec(checkpoint, options.movqgan, device)
    _check_memory(demand_of(options, config, weights, _request(options, settings), codec.config, device), budget)
    start = time.perf_counter()
    how = {"weights": weights.name, "device": device, "compile": options.compile}
    with loading_bar(checkpoint, weights) as on_progress:
        lumina = Lumina.load(checkpoint, movqgan=codec, on_progress=on_progress, **how)
    seconds = time.perf_counter() - start
    side = (lumina.config.trained_sizes or ((768, 768),))[0][0]
    return Timed(f"{checkpoint.path}, {weights.name} weights", lumina, side, seconds)


def _make_synthetic(options: argparse.Namespace, device: torch.device, settings: DecodeSettings) -> Timed:
    model = SYNTHETIC[options.synthetic]
    weights = choose_weights(options.weights, None, choose_dtype(device), model.config, total_bytes(device))
    demand = demand_of(options, model.config, weights, _request(options, settings), model.movqgan, device)
    _check_memory(demand, device_budget(device))
    start = time.perf_counter()
    transformer = set_compile(make_transformer(model.config, weights, device), options.compile)
    seconds = time.perf_counter() - start
    side = GPU_SIDE.get(options.synthetic, SMALL_SIDE) if is_gpu(device) else SMALL_SIDE
    lumina = Lumina(transformer, model.vocabulary, movqgan=make_movqgan(model.movqgan, device))
    return Timed(f"synthetic {options.synthetic}, {weights.name} weights", lumina, side, seconds)


def _check_memory(demand: Demand, budget: Budget | None) -> None:
    """Raises OutOfMemory when the run does not fit. The cache stays as it is asked for, to be timed."""
    if budget is not None:
        check_fits(demand, budget)


def _request(options: argparse.Namespace, settings: DecodeSettings) -> Request:
    """The picture of the longest context and the widest window."""
    canvas = canvas_reaching(max(options.context), max(options.windows))
    settings = settings.at_window(max(options.windows))
    return Request([[0] * PROMPT_TOKENS], canvas.grid_h, canvas.grid_w, settings=settings)


def _time_steps(
    options: argparse.Namespace, timed_model: Timed, settings: DecodeSettings, bandwidth: float
) -> list[dict[str, Any]]:
    """The JSON entry of every window and context."""
    transformer = timed_model.lumina.transformer
    timer = StepTimer(transformer, max(options.context), max(options.windows), settings)
    kernels = {"kernel": transformer.matmul_kernel, "attention": str(timer.cache.kernels.attention)}
    for context in options.context:
        count = timer.bytes_read(context)
        print(f"ceiling at {context}: {count / 1e9:.3f} GB a step, {1000 * count / bandwidth:.3f} ms")
    steps = []
    for context, window in itertools.product(options.context, options.windows):
        one = timer.measure(window, context, options.steps, bandwidth)
        derived = {name: getattr(one, name) for name in ("share", "accepted", "tokens_per_second")}
        steps.append({**asdict(one), **derived, **kernels})
        print(dump_json(steps[-1]), flush=True)
    return steps


def _print_table(steps: Sequence[dict[str, Any]]) -> None:
    print("window  tree  context  step ms  share of the ceiling  captured  tokens/s (accepted a step)")
    for step in steps:
        print(
            f"{step['window']:6}  {step['tree']:4}  {step['context']:7}  {1000 * step['seconds']:7.3f}  "
            f"{step['share']:20.1%}  {'yes' if step['captured'] else 'no':>8}  "
            f"{step['tokens_per_second']:8.1f} ({step['accepted']})"
        )
    print(f"tokens accepted a step are {ACCEPTED_FROM}")


def _decode_seconds(timed_model: Timed, device: torch.device) -> float:
    movqgan = timed_model.lumina.movqgan
    assert movqgan is not None
    side = timed_model.picture_side // movqgan.config.downscale
    codes = torch.zeros(1, side, side, dtype=torch.int64, device=device)
    movqgan.decode(codes)
    return timed(lambda: movqgan.decode(codes), device)


def _report(
    options: argparse.Namespace,
    timed_model: Timed,
    device: torch.device,
    bandwidth: float,
    steps: Sequence[dict[str, Any]],
    decode: float,
    peak: int | None,
) -> dict[str, Any]:
    return {
        "model": timed_model.name,
        "device": device_name(device),
        "kernel": steps[0]["kernel"],
        "attention": steps[0]["attention"],
        "dtype": str(timed_model.lumina.transformer.dtype).removeprefix("torch."),
        "kv": options.kv,
        "compile": options.compile,
        "cfg": options.cfg,
        "torch": torch.__version__,
        "copy_bytes_per_second": bandwidth,
        "accepted_from": ACCEPTED_FROM,
        "steps": steps,
        "load_seconds": timed_model.load_seconds,
        "decode_seconds": decode,
        "picture": f"{timed_model.picture_side}x{timed_model.picture_side}",
        "peak_bytes": peak,
    }
