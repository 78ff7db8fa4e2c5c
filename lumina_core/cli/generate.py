"""`generate`: a picture from a prompt, for every task."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from ..advice import Budget, check_fits
from ..checkpoint.output_files import OutputFiles
from ..decoding.settings import DECODERS, DecodeResult, DecodeSettings, StepReport
from ..device import available_bytes, peak_bytes
from ..errors import InputError, OutOfMemory
from ..model.compile import captures, set_compile
from ..model.load import load_transformer
from ..movqgan.autoencoder import MoVQGAN
from ..movqgan.codec import decode_picture, encode_picture
from ..pictures.panels import CODE_PIXELS, condition_pixels, given_size, load_picture, to_image
from ..pipeline import Request, check_request, draw
from ..planner import Demand
from ..quant.weights import WeightsPlan, plan_weights
from ..tokens.prompts import MAPS, TASKS, build_prompt, find_template
from .common import (
    Setup,
    add_batch_arguments,
    add_compile_argument,
    add_model_arguments,
    add_weights_argument,
    canvas_grid,
    check_batch,
    choose_device,
    choose_dtype,
    open_movqgan,
    open_setup,
    set_window,
)
from .files import check_outputs, check_picture_suffix, numbered

HELP = "draw pictures from a prompt"
DEFAULTS = DecodeSettings()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All options of the command."""
    add_model_arguments(parser)
    add_weights_argument(parser)
    add_compile_argument(parser)
    _add_task_arguments(parser)
    _add_decoding_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="picture; several get _k before the suffix")
    parser.add_argument("--tokens-out", type=Path, help="JSON of the pictures' tokens")
    parser.add_argument("--stats-out", type=Path, help="JSON of forwards, seconds, bytes and log-likelihoods")


def _add_task_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", required=True, help="what to draw")
    parser.add_argument("--width", type=int, required=True, help="of the whole canvas, in pixels")
    parser.add_argument("--height", type=int, required=True, help="of the whole canvas (both panels), in pixels")
    parser.add_argument("--task", choices=TASKS, default="t2i")
    parser.add_argument("--condition", type=Path, help="picture for the upper panel, where the task takes one")
    parser.add_argument(
        "--given-height",
        type=int,
        help="continue --condition: keep this many pixels of its top, at the canvas's width, and draw what is below",
    )
    parser.add_argument("--map", choices=tuple(MAPS), help="kind of map, for pair, control and predict")
    parser.add_argument("--object", help="what the condition shows, for subject")


def _add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cfg", type=float, default=DEFAULTS.cfg_scale, help="guidance; 1 is off")
    parser.add_argument("--top-k", type=int, default=DEFAULTS.top_k)
    parser.add_argument("--temperature", type=float, default=DEFAULTS.temperature)
    parser.add_argument("--seed", type=int, default=DEFAULTS.seed, help="picture k of a batch has seed + k")
    parser.add_argument("--decoder", choices=DECODERS, default=DEFAULTS.decoder, help="gumbel draws what ar draws")
    add_batch_arguments(parser)


def run(options: argparse.Namespace, input_is_good: Callable[[], None]) -> None:
    """Checks everything, then loads, draws and writes."""
    outputs = _check_outputs(options)
    device = choose_device(options.device)
    condition = _condition(options)
    text = build_prompt(options.task, options.width, options.height, options.prompt, options.map, options.object)
    setup = open_setup(options)
    request = _request(options, setup, text)
    check_request(request, setup.config, setup.vocabulary)
    pixels = None
    if condition is not None:
        pixels = condition_pixels(condition, options.width, options.height, options.given_height)
    weights = plan_weights(options.weights, setup.files.scheme, choose_dtype(device))
    capacity = available_bytes(device)
    movqgan = open_movqgan(setup, device)
    if capacity is not None:
        captured = captures(options.compile, device)
        check_fits(Demand(setup.config, weights, request, movqgan.config, captured), Budget(capacity))
    transformer = load_transformer(options.checkpoint, dtype=weights.dtype, device=device, weights=options.weights)
    set_compile(transformer, options.compile)
    input_is_good()
    if pixels is not None:
        request = replace(request, given_codes=encode_picture(movqgan, pixels.to(device)).cpu())
    with _Progress(request.codes_to_draw) as progress:
        result = draw(transformer, setup.vocabulary, request, on_step=progress.update)
    _write(options, outputs, setup, movqgan, result, lambda: _stats(device, weights, result))


def _check_outputs(options: argparse.Namespace) -> list[Path]:
    check_batch(options.batch)
    check_picture_suffix(options.out)
    outputs = numbered(options.out, options.batch)
    check_outputs([path for path in (*outputs, options.tokens_out, options.stats_out) if path is not None])
    return outputs


def _condition(options: argparse.Namespace) -> Image.Image | None:
    continued = options.given_height is not None
    needed = find_template(options.task).needs_condition or continued
    if continued and options.condition is None:
        raise InputError("--given-height came without a picture; name the one to continue with --condition")
    if needed and options.condition is None:
        raise InputError(f"the task {options.task} needs a picture for the upper panel; name one with --condition")
    if not needed and options.condition is not None:
        raise InputError(
            f"the task {options.task} takes no picture as upper panel; leave --condition out, choose "
            "another --task, or continue the picture with --given-height"
        )
    return load_picture(options.condition) if needed else None


def _request(options: argparse.Namespace, setup: Setup, text: str) -> Request:
    """The request; of a condition only the size stands in it yet, as rows of code 0."""
    grid_h, grid_w = canvas_grid(setup.config, setup.vocabulary, options.width, options.height)
    given = None
    if options.condition is not None:
        given_height = given_size(options.width, options.height, options.given_height)[1]
        given = torch.zeros(given_height // CODE_PIXELS, grid_w, dtype=torch.int64)
    prompts = [setup.tokenizer.encode_prompt(text)] * options.batch
    return set_window(Request(prompts, grid_h, grid_w, given, _settings(options)), options.window)


def _settings(options: argparse.Namespace) -> DecodeSettings:
    return DecodeSettings(
        cfg_scale=options.cfg,
        top_k=options.top_k,
        temperature=options.temperature,
        seed=options.seed,
        decoder=options.decoder,
        kv_cache=options.kv,
    )


class _Progress:
    """A bar of the codes that are settled, shown on a terminal."""

    def __init__(self, total: int):
        self._bar = tqdm(total=total, unit="token", disable=None, file=sys.stderr)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, report: StepReport) -> None:
        self._bar.update(sum(report.settled) - self._bar.n)


def _stats(device: torch.device, weights: WeightsPlan, result: DecodeResult) -> dict[str, Any]:
    return {
        "decoder": result.settings.decoder,
        "window": result.settings.width,
        "weights": weights.name,
        "kernel": result.matmul_kernel,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "dtype": str(weights.dtype).removeprefix("torch."),
        "seconds": result.seconds,
        "nfe": result.nfe,
        "sampled_tokens": result.sampled_tokens,
        "accept_histogram": result.accept_histogram,
        "peak_bytes": peak_bytes(device),
        "log_likelihood": list(result.log_likelihood),
        "kv": result.settings.kv_cache,
        "warm_up_seconds": result.warm_up_seconds,
        "attention": result.attention_kernel,
    }


@torch.inference_mode()
def _write(
    options: argparse.Namespace,
    outputs: list[Path],
    setup: Setup,
    movqgan: MoVQGAN,
    result: DecodeResult,
    stats: Callable[[], dict[str, Any]],
) -> None:
    """Decodes and writes; `stats` is asked last, when everything that takes memory is done.

    Where memory runs out in decoding, what was drawn is not lost: the tokens are written, and OutOfMemory says where.
    """
    tokens = {"tokens": [setup.vocabulary.picture_tokens(codes) for codes in result.codes]}
    try:
        images = _decode(movqgan, result)
    except OutOfMemory as error:
        kept = options.tokens_out or options.out.with_suffix(".tokens.json")
        with OutputFiles() as files:
            files.write_json(tokens, kept)
        raise OutOfMemory(f"{error}; what was drawn is kept in {kept}, which `decode` turns into pictures") from None
    with OutputFiles() as files:
        for image, path in zip(images, outputs, strict=True):
            files.write_picture(image, path)
        if options.tokens_out:
            files.write_json(tokens, options.tokens_out)
        if options.stats_out:
            files.write_json(stats(), options.stats_out)


def _decode(movqgan: MoVQGAN, result: DecodeResult) -> list[Image.Image]:
    device = movqgan.quantize.embedding.weight.device
    return [to_image(decode_picture(movqgan, codes.to(device))) for codes in result.codes.split(1)]
