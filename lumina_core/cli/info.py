"""`info`: what a checkpoint is, and what a run with it takes."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from typing import Any

import torch

from ..checkpoint import DEMO
from ..model.load import empty_transformer, published_shapes, weight_bytes
from ..panels import published_sizes
from ..pipeline import Request, check_request, run_bytes
from ..quant import plan_weights
from .common import (
    Setup,
    add_batch_arguments,
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

HELP = "describe a checkpoint and what it takes to draw with it; reads no weights of the transformer"
PROMPT_TOKENS = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All options of the command."""
    add_model_arguments(parser, checkpoint=DEMO)
    add_weights_argument(parser)
    parser.add_argument("--width", type=int, help="of a picture to draw (default: a size the model was trained on)")
    parser.add_argument("--height", type=int, help="of a picture to draw")
    add_batch_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace, input_is_good: Callable[[], None]) -> None:
    """Prints the description."""
    check_batch(options.batch)
    setup = open_setup(options)
    values = {**_model(setup), **_movqgan(setup), **_bytes(options, setup)}
    input_is_good()
    if options.json:
        print(json.dumps(values))
        return
    for name, value in values.items():
        print(f"{name.replace('_', ' '):<28}{_readable(name, value)}")


def _model(setup: Setup) -> dict[str, Any]:
    config = setup.config
    return {
        "checkpoint": str(setup.files.place),
        "weight_files": len(setup.files.shards),
        "parameters": sum(math.prod(shape) for shape in published_shapes(config).values()),
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "vocabulary": config.vocab_size,
        "context": config.max_position_embeddings,
        "image_codes": config.codebook_size,
        "first_image_code": config.image_token_offset,
    }


def _movqgan(setup: Setup) -> dict[str, Any]:
    movqgan = open_movqgan(setup, torch.device("cpu"))
    return {
        "movqgan": str(setup.movqgan),
        "movqgan_parameters": sum(parameter.numel() for parameter in movqgan.parameters()),
        "movqgan_channels": [*movqgan.config.widths],
    }


def _bytes(options: argparse.Namespace, setup: Setup) -> dict[str, Any]:
    """Weights on the device (the text rows of embedding and head stay in host memory), cache and activations."""
    config = setup.config
    width, height = (config.trained_sizes or [max(published_sizes(), key=min)])[0]
    width = width if options.width is None else options.width
    height = height if options.height is None else options.height
    device = choose_device(options.device)
    weights = plan_weights(options.weights, setup.files.scheme, choose_dtype(device))
    prompts = [[0] * PROMPT_TOKENS] * options.batch
    request = set_window(Request(prompts, *canvas_grid(setup, width, height)), options.window)
    check_request(request, config, setup.vocabulary)
    text_rows = 2 * (config.vocab_size - config.codebook_size) * config.hidden_size
    transformer = empty_transformer(config, weights, device)
    return {
        "picture": f"{width}x{height}, batch {options.batch}",
        "weights": weights.name,
        "dtype": str(weights.dtype).removeprefix("torch."),
        "weight_bytes_on_device": weight_bytes(transformer, weights.dtype),
        "text_rows_bytes_on_host": text_rows * 2,
        "run_bytes": run_bytes(config, weights.dtype, request) + transformer.scratch_bytes,
    }


def _readable(name: str, value: object) -> str:
    if "bytes" in name and isinstance(value, int):
        return f"{value / 2**20:,.1f} MiB"
    return f"{value:,}" if name.endswith("parameters") else str(value)
