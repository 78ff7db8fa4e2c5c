"""`info`: what a checkpoint is, and what a run with it takes."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..advice import Budget, advice
from ..checkpoint.config import TransformerConfig
from ..checkpoint.find import DEMO
from ..decoding.request import Request
from ..decoding.settings import DecodeSettings
from ..device import available_bytes
from ..model.load import published_shapes
from ..movqgan.config import MoVQGANConfig
from ..pictures.panels import published_sizes
from ..pipeline import check_request
from ..planner import MOVQGAN_ITEM_BYTES, Demand, movqgan_bytes, plan_memory
from ..quant.weights import plan_weights
from ..timing.synthetic import SYNTHETIC
from ..tokens.vocabulary import Vocabulary
from .common import (
    add_batch_arguments,
    add_model_arguments,
    add_synthetic_argument,
    add_weights_argument,
    canvas_grid,
    check_batch,
    choose_device,
    choose_dtype,
    open_movqgan,
    open_setup,
    set_window,
)

HELP = "describe a checkpoint and what it takes to draw with it; reads no weights of the transformer"
PROMPT_TOKENS = 64


@dataclass(frozen=True)
class Subject:
    """What is described: a checkpoint, or a synthetic model. `scheme` is how its weights are stored."""

    name: str
    movqgan_name: str
    files: int
    config: TransformerConfig
    vocabulary: Vocabulary
    movqgan: MoVQGANConfig
    scheme: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All options of the command."""
    add_model_arguments(parser, checkpoint=DEMO)
    add_synthetic_argument(parser)
    add_weights_argument(parser)
    parser.add_argument("--width", type=int, help="of a picture to draw (default: a size the model was trained on)")
    parser.add_argument("--height", type=int, help="of a picture to draw")
    add_batch_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace, input_is_good: Callable[[], None]) -> None:
    """Prints the description."""
    check_batch(options.batch)
    subject = _synthetic(options.synthetic) if options.synthetic else _checkpoint(options)
    values = {**_model(subject), **_bytes(options, subject)}
    input_is_good()
    if options.json:
        print(json.dumps(values))
        return
    for name, value in values.items():
        print(f"{name.replace('_', ' '):<28}{_readable(name, value)}")


def _checkpoint(options: argparse.Namespace) -> Subject:
    setup = open_setup(options)
    movqgan = open_movqgan(setup, torch.device("cpu")).config
    names, files = (str(setup.files.place), str(setup.movqgan)), setup.files
    return Subject(*names, len(files.shards), setup.config, setup.vocabulary, movqgan, files.scheme)


def _synthetic(name: str) -> Subject:
    sizes = SYNTHETIC[name]
    return Subject(f"synthetic {name}", "synthetic", 0, sizes.transformer, sizes.vocabulary, sizes.movqgan)


def _model(subject: Subject) -> dict[str, Any]:
    config = subject.config
    return {
        "checkpoint": subject.name,
        "weight_files": subject.files,
        "parameters": sum(math.prod(shape) for shape in published_shapes(config).values()),
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "vocabulary": config.vocab_size,
        "context": config.max_position_embeddings,
        "image_codes": config.codebook_size,
        "first_image_code": config.image_token_offset,
        "movqgan": subject.movqgan_name,
        "movqgan_parameters": movqgan_bytes(subject.movqgan) // MOVQGAN_ITEM_BYTES,
        "movqgan_channels": [*subject.movqgan.widths],
    }


def _bytes(options: argparse.Namespace, subject: Subject) -> dict[str, Any]:
    """Weights on the device (the text rows of embedding and head stay in host memory), and what a run takes."""
    config = subject.config
    width, height = (config.trained_sizes or [max(published_sizes(), key=min)])[0]
    width = width if options.width is None else options.width
    height = height if options.height is None else options.height
    device = choose_device(options.device)
    weights = plan_weights(options.weights, subject.scheme, choose_dtype(device))
    request = _request(options, subject, width, height)
    plan = plan_memory(demand := Demand(config, weights, request, subject.movqgan))
    capacity = available_bytes(device)
    text_rows = 2 * (config.vocab_size - config.codebook_size) * config.hidden_size
    return {
        "picture": f"{width}x{height}, batch {options.batch}",
        "weights": weights.name,
        "dtype": str(weights.dtype).removeprefix("torch."),
        "kv": options.kv,
        "window": request.settings.width,
        "text_rows_bytes_on_host": text_rows * 2,
        "weight_bytes_on_device": plan.weights,
        "movqgan_bytes_on_device": plan.movqgan,
        "cache_bytes": plan.cache,
        "forward_bytes": plan.forward,
        "run_bytes": plan.run,
        "decode_bytes": plan.decode,
        "decode_in_strips_bytes": plan.decode_in_strips,
        "total_bytes": plan.total,
        "device_bytes": capacity,
        "fits": _fits(demand, capacity),
    }


def _request(options: argparse.Namespace, subject: Subject, width: int, height: int) -> Request:
    prompts = [[0] * PROMPT_TOKENS] * options.batch
    grid = canvas_grid(subject.config, subject.vocabulary, width, height)
    request = set_window(Request(prompts, *grid, settings=DecodeSettings(kv_cache=options.kv)), options.window)
    check_request(request, subject.config, subject.vocabulary)
    return request


def _fits(demand: Demand, capacity: int | None) -> str:
    if capacity is None:
        return "not known"
    budget = Budget(capacity)
    return "yes" if budget.fits(demand) else f"no; {advice(demand, budget)}"


def _readable(name: str, value: object) -> str:
    if value is None:
        return "not known"
    if "bytes" in name and isinstance(value, int):
        return f"{value / 2**20:,.1f} MiB"
    return f"{value:,}" if name.endswith("parameters") else str(value)
