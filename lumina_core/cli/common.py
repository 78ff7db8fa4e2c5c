"""What several commands share: where files are, the device, the number format."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..checkpoint.config import TransformerConfig
from ..checkpoint.find import CheckpointFiles, find_checkpoint
from ..decoding.settings import DecodeSettings
from ..errors import InputError
from ..model.compile import COMPILE
from ..model.kv_store import KV_CACHES
from ..movqgan.autoencoder import MoVQGAN
from ..movqgan.load import load_movqgan
from ..pictures.panels import CODE_PIXELS, UNIT_PIXELS, check_size
from ..pipeline import Request
from ..quant.weights import AUTO, CHOICES
from ..timing.synthetic import SYNTHETIC
from ..tokens.tokenizer import Tokenizer, load_tokenizer
from ..tokens.vocabulary import Vocabulary

DEVICES = ("auto", "cpu", "cuda")
MAX_BATCH = 1024


@dataclass(frozen=True)
class Setup:
    """A checkpoint's files and the small things in them; the weights are not read yet."""

    files: CheckpointFiles
    config: TransformerConfig
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    movqgan: Path


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
        help=f"tokens a forward looks at (default: {DecodeSettings().window_size}, or what is left to draw if that is "
        "less)",
    )
    parser.add_argument(
        "--kv",
        choices=KV_CACHES,
        default=DecodeSettings().kv_cache,
        help="form of the key/value cache; auto: that of the computation, int8: half of bf16, a quarter of fp32, "
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


def open_setup(options: argparse.Namespace) -> Setup:
    """Reads everything of a checkpoint but the weights. Raises CheckpointError, and InputError without a MoVQGAN."""
    files = find_checkpoint(options.checkpoint)
    config = TransformerConfig.from_file(files.config)
    tokenizer = load_tokenizer(files.tokenizer)
    movqgan = options.movqgan or files.movqgan
    if movqgan is None:
        raise InputError(f"{files.place} holds no MoVQGAN file; name one with --movqgan (movqgan_270M.ckpt)")
    return Setup(files, config, tokenizer, Vocabulary.of(tokenizer, config), movqgan)


def open_movqgan(setup: Setup, device: torch.device) -> MoVQGAN:
    """The MoVQGAN in float32. Raises InputError when it does not belong to the checkpoint."""
    movqgan = load_movqgan(setup.movqgan, device=device)
    movqgan.config.check_codes(setup.config.codebook_size, CODE_PIXELS, str(setup.movqgan))
    return movqgan


def canvas_grid(config: TransformerConfig, vocabulary: Vocabulary, width: int, height: int) -> tuple[int, int]:
    """Rows and columns of codes of a canvas. Raises InputError for one that the model cannot draw."""
    max_side = vocabulary.max_units * UNIT_PIXELS
    check_size(width, height, config.max_position_embeddings, trained_sizes=(), max_side=max_side)
    return height // CODE_PIXELS, width // CODE_PIXELS


def check_batch(batch: int) -> None:
    """Raises InputError for a number of pictures that is out of range."""
    if not 1 <= batch <= MAX_BATCH:
        raise InputError(f"batch is {batch}; expected 1 to {MAX_BATCH} pictures")


def set_window(request: Request, window: int | None) -> Request:
    """The request with this window; None is the default, or what is left to draw if that is less."""
    if window is None:
        return request.fit_window()
    return replace(request, settings=replace(request.settings, window_size=window))


def choose_device(name: str) -> torch.device:
    """The device for a choice. Raises InputError for "cuda" where there is none."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError(
            "--device is cuda and PyTorch finds no CUDA device; use --device cpu, or a CUDA build of torch"
        )
    return torch.device("cuda" if name == "cuda" or (name == "auto" and available) else "cpu")


def choose_dtype(device: torch.device) -> torch.dtype:
    """What to compute in where the user names nothing: bf16 on a GPU that has it, else fp32."""
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
