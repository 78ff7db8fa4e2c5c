"""Where the pictures of a quality run come from: rendered truth, MoVQGAN reconstructions or the model's own drawing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lumina_core.checkpoint import CheckpointFiles, find_checkpoint
from lumina_core.errors import CheckpointError
from lumina_core.movqgan import MoVQGAN, load_movqgan
from lumina_core.panels import CODE_PIXELS
from lumina_core.prompts import build_prompt
from training.world import CANVAS, Sample, render

Source = Callable[[Sequence[Sample], int], list[np.ndarray]]
GRID_SIDE = CANVAS // CODE_PIXELS


@dataclass(frozen=True)
class Drawing:
    """How the pictures are drawn; names and meaning as on the command line of `lumina_core`."""

    decoder: str
    window: int
    cfg: float
    top_k: int
    temperature: float


def rendered(samples: Sequence[Sample], seed: int) -> list[np.ndarray]:
    """The truth: each scene's own picture."""
    return [render(item.scene) for item in samples]


def reconstructed(checkpoint: str, movqgan: str | None, device: str) -> Source:
    """A source that gives each scene's picture after MoVQGAN's encoder and decoder."""
    model = _movqgan(find_checkpoint(checkpoint) if movqgan is None else None, movqgan, device)

    @torch.inference_mode()
    def reconstruct(samples: Sequence[Sample], seed: int) -> list[np.ndarray]:
        pictures = np.stack(rendered(samples, seed))
        pixels = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        return to_pictures(model.decode(model.encode(pixels)))

    return reconstruct


def generated(checkpoint: str, movqgan: str | None, device: str, drawing: Drawing) -> Source:
    """A source that draws each caption with the model. Picture k of a call has seed `seed` + k."""
    from lumina_core.config import TransformerConfig
    from lumina_core.model import load_transformer
    from lumina_core.tokenizer import load_tokenizer
    from lumina_core.vocabulary import Vocabulary

    files = find_checkpoint(checkpoint)
    model = _movqgan(files, movqgan, device)
    transformer = load_transformer(checkpoint, dtype=torch.float32, device=device)
    tokenizer = load_tokenizer(files.tokenizer)
    vocabulary = Vocabulary.of(tokenizer, TransformerConfig.from_file(files.config))

    @torch.inference_mode()
    def generate(samples: Sequence[Sample], seed: int) -> list[np.ndarray]:
        prompts = [tokenizer.encode_prompt(build_prompt("t2i", CANVAS, CANVAS, item.caption)) for item in samples]
        return to_pictures(model.decode(_draw(transformer, vocabulary, prompts, drawing, seed).to(device)))

    return generate


def _draw(transformer: Any, vocabulary: Any, prompts: list[list[int]], drawing: Drawing, seed: int) -> torch.Tensor:
    from lumina_core.pipeline import Request, draw

    from lumina_core.decoding import DecodeSettings

    codes = []
    for index, prompt_ids in enumerate(prompts):
        settings = DecodeSettings(
            cfg_scale=drawing.cfg,
            top_k=drawing.top_k,
            temperature=drawing.temperature,
            seed=seed + index,
            decoder=drawing.decoder,
            window_size=drawing.window,
        )
        request = Request(prompt_ids, grid_h=GRID_SIDE, grid_w=GRID_SIDE, settings=settings)
        codes.append(draw(transformer, vocabulary, request).codes)
    return torch.cat(codes)


def _movqgan(files: CheckpointFiles | None, movqgan: str | None, device: str) -> MoVQGAN:
    path = movqgan or (files.movqgan if files else None)
    if path is None:
        raise CheckpointError("the checkpoint's folder holds no MoVQGAN file; name one with --movqgan")
    return load_movqgan(path, device=device)


def to_pictures(pixels: torch.Tensor) -> list[np.ndarray]:
    """uint8 [H, W, 3] pictures of pixels [B, 3, H, W] in [-1, 1]."""
    values = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return list(values.permute(0, 2, 3, 1).cpu().contiguous().numpy())
