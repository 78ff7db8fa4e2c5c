"""`info`: describes a checkpoint and the memory that a run takes."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import torch

from ..checkpoint.config import TransformerConfig
from ..checkpoint.find import Checkpoint, open_checkpoint
from ..checkpoint.locate import DEMO
from ..checkpoint.published import published_shapes
from ..decoding.build_request import check_request
from ..decoding.memory_plan import MOVQGAN_ITEM_BYTES, Demand, movqgan_bytes, plan_memory
from ..decoding.request import Request
from ..decoding.settings import DecodeSettings
from ..device import available_bytes, choose_device, choose_dtype, total_bytes
from ..files.json_text import dump_json
from ..kernels.kv_tensor import AUTO as AUTO_CACHE
from ..kernels.kv_tensor import INT8
from ..memory import PROMPT_TOKENS, Budget, advice, choose_weights
from ..model.compile import AUTO
from ..model.load import check_weights
from ..movqgan.config import MoVQGANConfig
from ..pictures.sizes import check_size, published_sizes, warn_if_untrained
from ..pipeline import load_codec
from ..timing.synthetic import SYNTHETIC, SyntheticModel
from .common import (
    add_batch_arguments,
    add_model_arguments,
    add_weights_argument,
    check_batch,
    check_synthetic,
)

HELP = "describe a checkpoint and the memory that a run takes; reads no weights of the transformer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, checkpoint=DEMO, synthetic=True)
    add_weights_argument(parser)
    parser.add_argument("--width", type=int, help="width of the picture (default: a size the model was trained on)")
    parser.add_argument("--height", type=int, help="height of the picture")
    add_batch_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the description as JSON")


def run(options: argparse.Namespace, on_input_checked: Callable[[], None]) -> None:
    """Prints the description of the checkpoint, as a table or as JSON."""
    check_synthetic(options)
    check_batch(options.batch)
    model: Checkpoint | SyntheticModel
    if options.synthetic:
        model = SYNTHETIC[options.synthetic]
        names, movqgan = (f"synthetic {options.synthetic}", 0, "not quantised", "synthetic"), model.movqgan
    else:
        model = checkpoint = open_checkpoint(options.checkpoint)
        check_weights(checkpoint.tensors, published_shapes(checkpoint.config), checkpoint.scheme, str(checkpoint.path))
        files, codec = len(checkpoint.tensors.paths), options.movqgan or checkpoint.movqgan
        names = str(checkpoint.path), files, checkpoint.stored_weights, str(codec)
        movqgan = load_codec(checkpoint, options.movqgan, torch.device("cpu")).config
    values = {**_description(*names, model.config, movqgan), **_bytes(options, model, movqgan)}
    on_input_checked()
    if options.json:
        print(dump_json(values))
        return
    for name, value in values.items():
        print(f"{name.replace('_', ' '):<28}{_readable(name, value)}")


def _description(
    name: str, files: int, stored: str, movqgan_name: str, config: TransformerConfig, movqgan: MoVQGANConfig
) -> dict[str, Any]:
    return {
        "checkpoint": name,
        "weight_files": files,
        "stored_weights": stored,
        "parameters": sum(math.prod(shape) for shape in published_shapes(config).values()),
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "vocabulary": config.vocab_size,
        "context": config.max_position_embeddings,
        "image_codes": config.codebook_size,
        "first_image_code": config.image_token_offset,
        "movqgan": movqgan_name,
        "movqgan_parameters": movqgan_bytes(movqgan) // MOVQGAN_ITEM_BYTES,
        "movqgan_channels": [*movqgan.widths],
    }


def _bytes(options: argparse.Namespace, model: Checkpoint | SyntheticModel, movqgan: MoVQGANConfig) -> dict[str, Any]:
    """Bytes of the weights and of a run. The text rows of embedding and head stay in host memory."""
    config = model.config
    width, height = (config.trained_sizes or [max(published_sizes(), key=min)])[0]
    width = width if options.width is None else options.width
    height = height if options.height is None else options.height
    device = choose_device(options.device)
    weights = choose_weights(options.weights, model.scheme, choose_dtype(device), config, total_bytes(device))
    request = _request(options, model, width, height)
    plan = plan_memory(demand := Demand.on(device, AUTO, config, weights, request, movqgan))
    capacity = available_bytes(device)
    text_rows = 2 * (config.vocab_size - config.codebook_size) * config.hidden_size
    return {
        "picture": f"{width}x{height}, batch {options.batch}",
        "weights": weights.name,
        "dtype": str(weights.dtype).removeprefix("torch."),
        "kv": options.kv,
        "window": request.settings.width,
        "tree": demand.request.settings.tree,
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


def _request(options: argparse.Namespace, model: Checkpoint | SyntheticModel, width: int, height: int) -> Request:
    prompts = [[0] * PROMPT_TOKENS] * options.batch
    settings = DecodeSettings(window_size=options.window, tree=options.tree, kv_cache=options.kv)
    request = Request(prompts, *check_size(width, height), settings=settings)
    check_request(request, model.config, model.vocabulary)
    warn_if_untrained(width, height, model.config.trained_sizes)
    return request


def _fits(demand: Demand, capacity: int | None) -> str:
    if capacity is None:
        return "not known"
    budget = Budget(capacity)
    if budget.fits(demand):
        return "yes"
    is_auto = demand.request.settings.kv_cache == AUTO_CACHE
    by_itself = "; a run takes the int8 cache by itself" if is_auto and budget.fits(demand.with_cache(INT8)) else ""
    return f"no; {advice(demand, budget)}{by_itself}"


def _readable(name: str, value: object) -> str:
    if value is None:
        return "not known"
    if "bytes" in name and isinstance(value, int):
        return f"{value / 2**20:,.1f} MiB"
    return f"{value:,}" if name.endswith("parameters") else str(value)
