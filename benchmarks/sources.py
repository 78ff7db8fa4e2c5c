"""Where scored pictures come from: rendered truth, MoVQGAN reconstructions, or the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from lumina_core.checkpoint.find import open_checkpoint
from lumina_core.decoding.request import Request
from lumina_core.decoding.settings import DecodeSettings
from lumina_core.movqgan.load import load_movqgan
from lumina_core.pictures.images import to_image, to_pixels
from lumina_core.pictures.sizes import CODE_PIXELS
from lumina_core.pipeline import Lumina, load_codec
from lumina_core.tokens.prompts import build_prompt
from training.world import CANVAS, Sample, render

Source = Callable[[Sequence[Sample], int], list[np.ndarray]]
GRID_SIDE = CANVAS // CODE_PIXELS


def rendered(samples: Sequence[Sample], seed: int) -> list[np.ndarray]:
    """The truth: each scene's own picture."""
    return [render(item.scene) for item in samples]


def reconstructed(checkpoint: str, movqgan: str | None, device: torch.device) -> Source:
    """A source of each scene's picture after MoVQGAN's encoder and decoder."""
    reconstruct = reconstructor(checkpoint, movqgan, device)
    return lambda samples, seed: reconstruct(rendered(samples, seed))


def reconstructor(
    checkpoint: str, movqgan: str | None, device: torch.device
) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
    """A function that encodes and decodes pictures of one size, uint8 [H, W, 3], by the named or own MoVQGAN."""
    if movqgan is None:
        model = load_codec(open_checkpoint(checkpoint), None, device)
    else:
        model = load_movqgan(movqgan, device=device)

    @torch.inference_mode()
    def reconstruct(pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        pixels = torch.cat([to_pixels(Image.fromarray(picture)) for picture in pictures]).to(device)
        return [np.asarray(to_image(one)) for one in model.decode(model.encode(pixels))]

    return reconstruct


def generated(checkpoint: str, movqgan: str | None, device: torch.device, settings: DecodeSettings) -> Source:
    """A source that draws each caption with the model. Picture k of a call has seed `seed` + k."""
    lumina = Lumina.load(checkpoint, movqgan=movqgan, device=device, dtype=torch.float32)

    def generate(samples: Sequence[Sample], seed: int) -> list[np.ndarray]:
        captions = [item.caption for item in samples]
        return draw_pictures(lumina, caption_request(lumina, captions, replace(settings, seed=seed)))

    return generate


def caption_request(lumina: Lumina, captions: Sequence[str], settings: DecodeSettings) -> Request:
    """One picture of each caption, in one batch, of the demo world's size."""
    prompts = [lumina.tokenizer.encode_prompt(build_prompt("t2i", CANVAS, CANVAS, caption)) for caption in captions]
    return Request(prompts, GRID_SIDE, GRID_SIDE, settings=settings)


def draw_pictures(lumina: Lumina, request: Request) -> list[np.ndarray]:
    """The pictures of a request, uint8 [H, W, 3]."""
    return [np.asarray(picture) for picture in lumina.decode(lumina.sample(request).codes)]
