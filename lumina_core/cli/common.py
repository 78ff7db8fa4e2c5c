"""What several commands share: where files are, the device, the number format."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from ..checkpoint import CheckpointFiles, find_checkpoint
from ..config import TransformerConfig
from ..errors import InputError
from ..movqgan import MoVQGAN, load_movqgan
from ..tokenizer import Tokenizer, load_tokenizer
from ..vocabulary import Vocabulary

WEIGHTS = ("auto", "bf16", "fp32")
DEVICES = ("auto", "cpu", "cuda")


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
        help='folder in the published form, a .safetensors file with its config beside it, or "demo"',
    )
    parser.add_argument("--movqgan", type=Path, help="MoVQGAN file (default: the one in the checkpoint's folder)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: cuda where there is one")


def open_setup(options: argparse.Namespace) -> Setup:
    """Reads everything of a checkpoint but the weights. Raises CheckpointError, and InputError without a MoVQGAN."""
    files = find_checkpoint(options.checkpoint)
    config = TransformerConfig.from_file(files.config)
    tokenizer = load_tokenizer(files.tokenizer)
    movqgan = options.movqgan or files.movqgan
    if movqgan is None:
        raise InputError(f"{files.root} holds no MoVQGAN file; name one with --movqgan (movqgan_270M.ckpt)")
    return Setup(files, config, tokenizer, Vocabulary.of(tokenizer, config), movqgan)


def open_movqgan(setup: Setup, device: torch.device) -> MoVQGAN:
    """The MoVQGAN in float32. Raises InputError when it does not belong to the checkpoint."""
    movqgan = load_movqgan(setup.movqgan, device=device)
    if movqgan.config.codebook_size != setup.config.codebook_size:
        raise InputError(
            f"{setup.movqgan} has {movqgan.config.codebook_size} codes, the checkpoint draws "
            f"{setup.config.codebook_size}; name the MoVQGAN that belongs to it with --movqgan"
        )
    return movqgan


def choose_device(name: str) -> torch.device:
    """The device for a choice. Raises InputError for "cuda" where there is none."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError(
            "--device is cuda and PyTorch finds no CUDA device; use --device cpu, or a CUDA build of torch"
        )
    return torch.device("cuda" if name == "cuda" or (name == "auto" and available) else "cpu")


def choose_dtype(weights: str, device: torch.device) -> torch.dtype:
    """The number format for a choice; auto is bf16 on a GPU that has it, else fp32."""
    if weights != "auto":
        return {"bf16": torch.bfloat16, "fp32": torch.float32}[weights]
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
