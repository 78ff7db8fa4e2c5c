"""`generate`: draws pictures from a prompt, for all tasks."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.find import Checkpoint, open_checkpoint
from ..decoding.request import Request
from ..decoding.settings import DECODERS, DecodeResult, DecodeSettings, StepReport
from ..device import choose_device, choose_dtype, device_name, peak_bytes, total_bytes
from ..errors import InputError
from ..files.output_files import OutputFiles, check_outputs, check_picture_suffix, numbered_paths
from ..memory import choose_weights, weights_of
from ..pictures.images import load_picture
from ..pictures.panels import condition_pixels, given_size
from ..pictures.sizes import CODE_PIXELS
from ..pipeline import Drawing, Lumina, build_request, load_codec
from ..tokens.prompts import MAPS, TASKS, build_prompt
from ..tokens.task_inputs import check_condition, warn_of_ignored
from ..tokens.token_files import is_token_file, read_token_lists, rows_to_continue, token_values
from .common import (
    add_batch_arguments,
    add_compile_argument,
    add_model_arguments,
    add_weights_argument,
    check_batch,
    demand_of,
    device_budget,
    fit_request,
    keep_inputs,
    loading_bar,
    progress_bar,
)
from .kept import Keeper

HELP = "draw pictures from a prompt"
DEFAULTS = DecodeSettings()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_weights_argument(parser)
    add_compile_argument(parser)
    _add_task_arguments(parser)
    _add_decoding_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="picture file; several get _k before the suffix")
    parser.add_argument("--tokens-out", type=Path, help="JSON file for the tokens of the pictures")
    parser.add_argument("--stats-out", type=Path, help="JSON file for forwards, seconds, bytes and log-likelihoods")


def _add_task_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", required=True, help="what to draw")
    parser.add_argument("--width", type=int, required=True, help="width of the whole canvas in pixels")
    parser.add_argument("--height", type=int, required=True, help="height of the whole canvas (both panels) in pixels")
    parser.add_argument("--task", choices=TASKS, default="t2i")
    parser.add_argument(
        "--condition",
        type=Path,
        help="picture for the upper panel, for tasks that need one, or tokens of a begun picture to continue",
    )
    parser.add_argument(
        "--given-height",
        type=int,
        help="continue --condition: scale it to the canvas width, keep this many pixels of its top, draw the rest",
    )
    parser.add_argument("--map", choices=tuple(MAPS), help="kind of map, for pair, control and predict")
    parser.add_argument("--object", help="description of the object in the condition, for subject and subject-released")


def _add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cfg", type=float, default=DEFAULTS.cfg_scale, help="classifier-free guidance; 1 is off")
    parser.add_argument("--top-k", type=int, default=DEFAULTS.top_k)
    parser.add_argument("--temperature", type=float, default=DEFAULTS.temperature)
    parser.add_argument("--seed", type=int, default=DEFAULTS.seed, help="picture k of a batch has seed + k")
    parser.add_argument("--decoder", choices=DECODERS, default=DEFAULTS.decoder, help="gumbel draws what ar draws")
    add_batch_arguments(parser)


def run(options: argparse.Namespace, on_input_checked: Callable[[], None]) -> None:
    """Checks all input, then loads the model, draws the pictures and writes them."""
    kept = _kept_lists(options)
    written = _check_outputs(options)
    device = choose_device(options.device)
    is_continued = options.given_height is not None or kept is not None
    check_condition(options.task, options.condition is not None, is_continued)
    condition = None if options.condition is None or kept is not None else load_picture(options.condition)
    text = build_prompt(options.task, options.width, options.height, options.prompt, options.map, options.object)
    checkpoint = open_checkpoint(options.checkpoint)
    keep_inputs(options, written, checkpoint)
    request = _request(options, checkpoint, text, kept)
    pixels = None
    if condition is not None:
        pixels = condition_pixels(condition, options.width, options.height, options.given_height)
        del condition  # perhaps large
    config, dtype = checkpoint.config, choose_dtype(device)
    weights = choose_weights(options.weights, checkpoint.scheme, dtype, config, total_bytes(device))
    budget, codec = device_budget(device), load_codec(checkpoint, options.movqgan, device)
    request = fit_request(demand_of(options, config, weights, request, codec.config, device), budget)
    how = {"weights": weights.name, "device": device, "compile": options.compile}
    with loading_bar(checkpoint, weights) as on_progress:
        lumina = Lumina.load(checkpoint, movqgan=codec, on_progress=on_progress, **how)
    warn_of_ignored(options.task, options.map, options.object)
    on_input_checked()
    if pixels is not None:
        request = replace(request, given_codes=lumina.encode(pixels))
    keeper = Keeper(options, request, lumina.vocabulary)
    drawing = Drawing(lumina, keeper.draw(lambda on_step: _sample(lumina, request, on_step)))
    lists = [lumina.vocabulary.picture_tokens(codes) for codes in drawing.codes]
    keeper.write(lists, lambda: _write(options, written[: options.batch], drawing, lists))


def _kept_lists(options: argparse.Namespace) -> list[list[int]] | None:
    """The tokens of a begun picture where the condition is a file of them; as many pictures are drawn."""
    if options.condition is None or not is_token_file(options.condition):
        return None
    lists = read_token_lists(options.condition)
    options.batch = len(lists) if options.batch == 1 else options.batch
    if len(lists) not in (1, options.batch):
        raise InputError(
            f"{options.condition} holds {len(lists)} pictures and the batch is {options.batch}; expected as many"
        )
    return lists


def _check_outputs(options: argparse.Namespace) -> list[Path]:
    """The files to write, pictures first. Raises InputError for those that cannot be written, or are inputs."""
    check_batch(options.batch)
    check_picture_suffix(options.out)
    pictures = numbered_paths(options.out, options.batch)
    paths = [path for path in (*pictures, options.tokens_out, options.stats_out) if path is not None]
    check_outputs(paths)
    keep_inputs(options, paths)
    options.signals.watch(paths)
    return paths


def _request(options: argparse.Namespace, checkpoint: Checkpoint, text: str, kept: list[list[int]] | None) -> Request:
    """The request. A condition is not encoded yet: rows of code 0 stand for it; kept rows have their codes."""
    settings = DecodeSettings(
        cfg_scale=options.cfg,
        top_k=options.top_k,
        temperature=options.temperature,
        seed=options.seed,
        decoder=options.decoder,
        window_size=options.window,
        kv_cache=options.kv,
    )
    request = build_request(checkpoint, text, options.width, options.height, options.batch, settings=settings)
    if options.condition is None:
        return request
    if kept is not None:
        return replace(request, given_codes=_kept_rows(options, checkpoint, kept))
    width, height = given_size(options.width, options.height, options.given_height)
    given = torch.zeros(height // CODE_PIXELS, width // CODE_PIXELS, dtype=torch.int64)
    return replace(request, given_codes=given)


def _kept_rows(options: argparse.Namespace, checkpoint: Checkpoint, kept: list[list[int]]) -> torch.Tensor:
    """Codes [N,rows,w] of begun pictures. Raises InputError for those of another size, or too few rows."""
    begun = rows_to_continue(kept, checkpoint.vocabulary, str(options.condition))
    size, wanted = f"{begun.grid_w * CODE_PIXELS}x{begun.grid_h * CODE_PIXELS}", f"{options.width}x{options.height}"
    if size != wanted:
        raise InputError(f"the picture begun in {options.condition} is {size} and the canvas {wanted}; expected {size}")
    rows = begun.codes.shape[1]
    if options.given_height is None:
        if rows == begun.grid_h:
            raise InputError(
                f"{options.condition} holds a whole picture; at least one row must be left to draw: `decode` converts "
                "it to a picture, and --given-height draws it again from a row on"
            )
        return begun.codes
    _, height = given_size(options.width, options.height, options.given_height)
    if height > rows * CODE_PIXELS:
        raise InputError(
            f"the given height is {height} and {options.condition} holds {rows} complete rows; expected at most "
            f"{rows * CODE_PIXELS}"
        )
    return begun.codes[:, : height // CODE_PIXELS]


def _sample(lumina: Lumina, request: Request, on_step: Callable[[StepReport], None]) -> DecodeResult:
    """Draws the codes. Shows a progress bar on a terminal."""
    with progress_bar(total=request.codes_to_draw, unit="tokens") as bar:

        def show(report: StepReport) -> None:
            on_step(report)
            bar.update(sum(report.accepted), report.warm_up_seconds)

        result = lumina.sample(request, show)
        bar.finish(result.seconds, result.warm_up_seconds)
        return result


def _write(options: argparse.Namespace, outputs: list[Path], drawing: Drawing, lists: list[list[int]]) -> None:
    """Decodes the pictures and writes all files. Statistics come last, so that the peak memory includes decoding."""
    images = drawing.images
    with OutputFiles() as files:
        for image, path in zip(images, outputs, strict=True):
            files.write_picture(image, path)
        if options.tokens_out:
            files.write_json(token_values(lists), options.tokens_out)
        if options.stats_out:
            files.write_json(_stats(options, drawing), options.stats_out)
        options.signals.check()


def _stats(options: argparse.Namespace, drawing: Drawing) -> dict[str, Any]:
    result, transformer = drawing.result, drawing.lumina.transformer
    weights = weights_of(transformer)
    return {
        "decoder": result.settings.decoder,
        "window": result.settings.width,
        "weights": weights.name,
        "kernel": result.matmul_kernel,
        "device": device_name(transformer.device),
        "dtype": str(weights.dtype).removeprefix("torch."),
        "seconds": result.seconds,
        "nfe": result.nfe,
        "sampled_tokens": result.sampled_tokens,
        "accept_histogram": result.accept_histogram,
        "peak_bytes": peak_bytes(transformer.device),
        "log_likelihood": list(result.log_likelihood),
        "kv": result.settings.kv_cache,
        "warm_up_seconds": result.warm_up_seconds,
        "attention": result.attention_kernel,
        "asked": {"weights": options.weights, "kv": options.kv},
    }
