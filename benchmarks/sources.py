"""Where the pictures of a quality run come from: rendered truth, MoVQGAN reconstructions or the model's own drawing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from lumina_core.checkpoint.find import CheckpointFiles, find_checkpoint, load_tokenizer
from lumina_core.decoding.settings import DecodeSettings
from lumina_core.errors import CheckpointError
from lumina_core.model.load import load_transformer
from lumina_core.model.transformer import Transformer
from lumina_core.movqgan.autoencoder import MoVQGAN
from lumina_core.movqgan.load import load_movqgan
from lumina_core.pictures.sizes import CODE_PIXELS
from lumina_core.pipeline import Request, draw
from lumina_core.tokens.prompts import build_prompt
from lumina_core.tokens.tokenizer import Tokenizer
from lumina_core.tokens.vocabulary import Vocabulary
from training.world import CANVAS, Sample, render

Source = Callable[[Sequence[Sample], int], list[np.ndarray]]
GRID_SIDE = CANVAS // CODE_PIXELS


def rendered(samples: Sequence[Sample], seed: int) -> list[np.ndarray]:
    """The truth: each scene's own picture."""
    return [render(item.scene) for item in samples]


def reconstructed(checkpoint: str, movqgan: str | None, device: torch.device) -> Source:
    """A source that gives each scene's picture after MoVQGAN's encoder and decoder."""
    reconstruct = reconstructor(checkpoint, movqgan, device)
    return lambda samples, seed: reconstruct(rendered(samples, seed))


def reconstructor(
    checkpoint: str, movqgan: str | None, device: torch.device
) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
    """What gives pictures of one size, uint8 [H, W, 3], after MoVQGAN's encoder and decoder."""
    model = open_movqgan(find_checkpoint(checkpoint) if movqgan is None else None, movqgan, device)

    @torch.inference_mode()
    def reconstruct(pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        pixels = torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        return to_pictures(model.decode(model.encode(pixels)))

    return reconstruct


@dataclass(frozen=True)
class Demo:
    """A checkpoint, ready to draw."""

    transformer: Transformer
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    movqgan: MoVQGAN


def load_demo(
    checkpoint: str, device: torch.device | str, dtype: torch.dtype = torch.float32, movqgan: str | None = None
) -> Demo:
    """A checkpoint, its transformer in `dtype`. Raises CheckpointError when there is no MoVQGAN."""
    files = find_checkpoint(checkpoint)
    codec = open_movqgan(files, movqgan, device)
    transformer = load_transformer(checkpoint, dtype=dtype, device=device)
    tokenizer = load_tokenizer(files.tokenizer)
    return Demo(transformer, tokenizer, Vocabulary.of(tokenizer, transformer.config), codec)


def generated(checkpoint: str, movqgan: str | None, device: torch.device, settings: DecodeSettings) -> Source:
    """A source that draws each caption with the model. Picture k of a call has seed `seed` + k."""
    demo = load_demo(checkpoint, device, movqgan=movqgan)

    @torch.inference_mode()
    def generate(samples: Sequence[Sample], seed: int) -> list[np.ndarray]:
        prompts = [demo.tokenizer.encode_prompt(build_prompt("t2i", CANVAS, CANVAS, item.caption)) for item in samples]
        request = Request(prompts, GRID_SIDE, GRID_SIDE, settings=replace(settings, seed=seed))
        return to_pictures(demo.movqgan.decode(draw(demo.transformer, demo.vocabulary, request).codes.to(device)))

    return generate


def open_movqgan(files: CheckpointFiles | None, movqgan: str | None, device: torch.device | str) -> MoVQGAN:
    """The named MoVQGAN, or that of the checkpoint. Raises CheckpointError when there is none."""
    path = movqgan or (files.movqgan if files else None)
    if path is None:
        raise CheckpointError("the checkpoint's folder holds no MoVQGAN file; name one with --movqgan")
    return load_movqgan(path, device=device)


def to_pictures(pixels: torch.Tensor) -> list[np.ndarray]:
    """uint8 [H, W, 3] pictures of pixels [B, 3, H, W] in [-1, 1]."""
    values = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return list(values.permute(0, 2, 3, 1).cpu().contiguous().numpy())
