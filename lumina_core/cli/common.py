"""Options that several commands share, and their checks."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..checkpoint.config import TransformerConfig
from ..decoding.request import Request
from ..decoding.settings import DecodeSettings
from ..device import DEVICES, available_bytes
from ..errors import InputError
from ..memory import Budget, Demand, check_fits
from ..model.compile import COMPILE, captures
from ..model.kv_store import KV_CACHES
from ..movqgan.config import MoVQGANConfig
from ..quant.weights import AUTO, CHOICES, WeightsPlan
from ..timing.synthetic import SYNTHETIC

MAX_BATCH = 1024


def add_model_arguments(parser: argparse.ArgumentParser, checkpoint: str | None = None) -> None:
    """--checkpoint (required when there is no default), --movqgan and --device."""
    parser.add_argument(
        "--checkpoint",
        default=checkpoint,
        required=checkpoint is None,
        help='folder in the published form, a file that convert made or with its config beside it, or "demo"',
    )
    parser.add_argument("--movqgan", type=Path, help="MoVQGAN file (default: the one in the checkpoint or its folder)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: cuda where there is one")


def add_synthetic_argument(parser: argparse.ArgumentParser) -> None:
    """--synthetic."""
    parser.add_argument(
        "--synthetic",
        choices=tuple(SYNTHETIC),
        help="a published model's sizes with no weights, instead of --checkpoint",
    )


def add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    """--batch, --window and --kv."""
    parser.add_argument("--batch", type=int, default=1, help="pictures drawn in one go")
    parser.add_argument(
        "--window",
        type=int,
        default=DecodeSettings().window_size,
        help="tokens of a forward; at most what is left to draw is used",
    )
    parser.add_argument(
        "--kv",
        choices=KV_CACHES,
        default=DecodeSettings().kv_cache,
        help="dtype of the key/value cache; auto: that of the computation, int8: half of bf16, a quarter of fp32, "
        "int4: a third of bf16",
    )


def add_weights_argument(parser: argparse.ArgumentParser) -> None:
    """--weights."""
    parser.add_argument(
        "--weights",
        choices=CHOICES,
        default=AUTO,
        help="form of the weights; auto: as a converted checkpoint has them, else bf16 on a GPU that has it, else fp32",
    )


def add_compile_argument(parser: argparse.ArgumentParser) -> None:
    """--compile."""
    parser.add_argument(
        "--compile",
        choices=COMPILE,
        default="auto",
        help="auto: steps are captured as CUDA graphs on a GPU, off: they are not, on: and the blocks compiled by "
        "torch.compile, which takes a while once and may round otherwise",
    )


def check_batch(batch: int) -> None:
    """Raises InputError for a number of pictures that is out of range."""
    if not 1 <= batch <= MAX_BATCH:
        raise InputError(f"batch is {batch}; expected 1 to {MAX_BATCH} pictures")


def check_memory(
    options: argparse.Namespace,
    config: TransformerConfig,
    weights: WeightsPlan,
    request: Request,
    movqgan: MoVQGANConfig,
    device: torch.device,
) -> None:
    """Raises OutOfMemory when a run does not fit on the device, with smaller settings that do."""
    capacity = available_bytes(device)
    if capacity is not None:
        check_fits(Demand(config, weights, request, movqgan, captures(options.compile, device)), Budget(capacity))
