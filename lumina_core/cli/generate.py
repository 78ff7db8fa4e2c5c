"""`generate`: draws pictures from a prompt, or from a file of prompts, for all tasks."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checkpoint.find import open_checkpoint
from ..decoding.settings import DECODERS, DecodeSettings
from ..device import choose_device, device_name, peak_bytes
from ..errors import InputError
from ..files.fingerprint import file_hash
from ..files.output_files import OutputFiles, check_outputs, check_picture_suffix, numbered_paths
from ..lora.applied import in_use
from ..memory import weights_of
from ..pictures.metadata import PictureSettings, png_texts
from ..pipeline import Drawing
from ..tokens.prompts import MAPS, TASKS
from ..tokens.task_inputs import warn_of_ignored
from ..tokens.token_files import token_values
from .asked import Asked, kept_lists
from .common import (
    add_batch_arguments,
    add_compile_argument,
    add_lora_argument,
    add_model_arguments,
    add_weights_argument,
    check_batch,
    keep_inputs,
)
from .draw import sample, with_condition
from .kept import Keeper
from .planned import PlannedModel
from .prompts_run import run_prompts

HELP = "draw pictures from a prompt, or from a file of prompts"
DEFAULTS = DecodeSettings()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_weights_argument(parser)
    add_compile_argument(parser)
    add_lora_argument(parser)
    _add_task_arguments(parser)
    _add_decoding_arguments(parser)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="picture file; several get _k before the suffix. With --prompts, the folder for the pictures",
    )
    parser.add_argument("--no-metadata", action="store_true", help="leave prompt, seed and settings out of PNG files")
    parser.add_argument("--tokens-out", type=Path, help="JSON file for the tokens of the pictures")
    parser.add_argument("--stats-out", type=Path, help="JSON file for forwards, seconds, bytes and log-likelihoods")


def _add_task_arguments(parser: argparse.ArgumentParser) -> None:
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", help="what to draw")
    prompt.add_argument(
        "--prompts",
        type=Path,
        help="file of prompts, one a line, or of JSON lines with settings of their own; what is drawn already is not "
        "drawn again, and under torchrun each process draws its share",
    )
    parser.add_argument(
        "--negative",
        help="what to keep away from: the unconditional branch reads this as a prompt; cfg 1 ignores it",
    )
    parser.add_argument("--skip-bad", action="store_true", help="leave broken lines of --prompts out, with a warning")
    parser.add_argument("--width", type=int, help="width of the whole canvas in pixels")
    parser.add_argument("--height", type=int, help="height of the whole canvas (both panels) in pixels")
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
    parser.add_argument(
        "--mask",
        type=Path,
        help="draw only what is white in this picture, and keep the rest of --condition, the whole canvas (for the "
        "task edit its lower panel). Rounded to codes of 8 pixels",
    )
    parser.add_argument(
        "--candidates",
        type=int,
        default=1,
        help="with --mask: draw so many at once, and keep the one after which the given codes are likeliest; it has "
        "the seed of its number, as in a batch",
    )
    parser.add_argument("--map", choices=tuple(MAPS), help="kind of map, for pair, control and predict")
    parser.add_argument("--object", help="description of the object in the condition, for subject and subject-released")


def _add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cfg", type=float, default=DEFAULTS.cfg_scale, help="classifier-free guidance; 1 is off")
    parser.add_argument("--top-k", type=int, default=DEFAULTS.top_k)
    parser.add_argument(
        "--top-p",
        type=float,
        default=DEFAULTS.top_p,
        help="of the codes that top-k leaves, the likeliest that have this probability together; 1 is off",
    )
    parser.add_argument(
        "--min-p",
        type=float,
        default=DEFAULTS.min_p,
        help="of those, the codes with at least this share of the likeliest one's probability; 0 is off",
    )
    parser.add_argument("--temperature", type=float, default=DEFAULTS.temperature)
    parser.add_argument(
        "--seed",
        type=int,
        default=DEFAULTS.seed,
        help="picture k of a batch has seed + k; without a seed of its own, prompt i of --prompts has seed + i * batch",
    )
    parser.add_argument("--decoder", choices=DECODERS, default=DEFAULTS.decoder, help="gumbel draws what ar draws")
    add_batch_arguments(parser)


def run(options: argparse.Namespace, on_input_checked: Callable[[], None]) -> None:
    """Checks all input, then loads the model, draws the pictures and writes them."""
    _check_together(options)
    if options.prompts is not None:
        run_prompts(options, on_input_checked)
    else:
        _run_prompt(options, on_input_checked)


def _check_together(options: argparse.Namespace) -> None:
    """Raises InputError for options that do not go together."""
    if options.prompts is None:
        missing = [f"--{name}" for name in ("width", "height") if getattr(options, name) is None]
        if missing:
            raise InputError(f"the following arguments are required with --prompt: {', '.join(missing)}")
        if options.skip_bad:
            raise InputError("argument --skip-bad: not allowed with argument --prompt; it is for --prompts")
        return
    if options.candidates != 1:
        raise InputError("argument --candidates: not allowed with argument --prompts; it is for --prompt")
    for name in ("tokens_out", "stats_out"):
        if getattr(options, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"argument {option}: not allowed with argument --prompts, which writes pictures alone")


def _run_prompt(options: argparse.Namespace, on_input_checked: Callable[[], None]) -> None:
    kept = kept_lists(options)
    written = _check_outputs(options)
    device = choose_device(options.device)
    asked = Asked.of(options, kept)
    checkpoint = open_checkpoint(options.checkpoint)
    keep_inputs(options, written, checkpoint)
    request, pixels = asked.request(checkpoint), asked.pixels()
    model = PlannedModel.of(options, checkpoint, device)
    request = model.fit(request)
    ids = [None if path is None else file_hash(path) for path in (options.condition, options.mask)]
    settings = None if options.no_metadata else model.settings(options, request, *ids)
    lumina = model.load()
    warn_of_ignored(options.task, options.map, options.object)
    on_input_checked()
    request = with_condition(lumina, request, pixels)
    keeper = Keeper(options, request, lumina.vocabulary)
    result = keeper.draw(lambda on_step: sample(lumina, request, on_step))
    drawing = Drawing(lumina, result, request.mask, pixels)
    if options.candidates > 1:
        drawing = drawing.best
        settings = settings and [replace(settings[0], seed=settings[0].seed + (drawing.index or 0))]
    lists = [lumina.vocabulary.picture_tokens(codes) for codes in drawing.codes]
    keeper.write(lists, lambda: _write(options, written[: options.batch], drawing, lists, settings))


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


def _write(
    options: argparse.Namespace,
    outputs: list[Path],
    drawing: Drawing,
    lists: list[list[int]],
    settings: list[PictureSettings] | None,
) -> None:
    """Decodes the pictures and writes all files. Statistics come last, so that the peak memory includes decoding."""
    images = drawing.images
    texts = [None] * len(images) if settings is None else [png_texts(one) for one in settings]
    with OutputFiles() as files:
        for image, path, text in zip(images, outputs, texts, strict=True):
            files.write_picture(image, path, text)
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
        "tree": result.settings.nodes,
        "given_log_likelihood": result.given_log_likelihood and list(result.given_log_likelihood),
        "effective_sample_size": result.effective_sample_size,
        "chosen": drawing.index,
        "loras": [one.values() for one in in_use(drawing.lumina.loras)],
    }
