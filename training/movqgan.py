"""Trains the demo's MoVQGAN on rendered scenes: python -m training.movqgan --out FOLDER"""

import argparse
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lumina_core.movqgan.autoencoder import MoVQGAN
from lumina_core.movqgan.config import MoVQGANConfig
from lumina_core.movqgan.load import load_movqgan

from .world import (
    BACKGROUNDS,
    CANVAS,
    TRAINING_WEIGHTS,
    Panel,
    Scene,
    canny,
    code_vectors,
    ink,
    panel_codes,
    render,
    sample_scene,
    sample_task,
    training_rng,
)

logger = logging.getLogger(__name__)

CONFIG = MoVQGANConfig(
    channels=32,
    multipliers=(1, 1, 2, 4),
    res_blocks=1,
    attention_levels=(),
    latent_channels=4,
    code_channels=4,
    codebook_size=len(code_vectors()),
)
FILE_NAME = "movqgan.safetensors"
STEPS, BATCH, PEAK_RATE = 4800, 8, 1.5e-3
POLISH_STEPS, POLISH_RATE, POLISH_SPREAD = 2400, 5e-4, 0.02
PANEL_ROUNDS = ((1000, 0.5), (1000, 0.5), (3000, 0.75))  # Steps, and the share of them on canvases of two panels.
MOST_PANEL_STEPS = max(steps for steps, _ in PANEL_ROUNDS)
LATENT_WEIGHT = 4.0
PIXEL_NOISE = 0.02
SMALL_SHARE = 0.3
MAP_SHARE = 0.35
REAL_CANNY_SHARE = 0.5
CROWDED = ("mixed", "counting", "colour_attribution", "position")
WORKER, POLISH_WORKER, PANEL_WORKER = 1, 2, 3


@dataclass(frozen=True)
class CodecBatch:
    """Pixels [B,3,H,W] in [-1,1] to draw, their weights [B,1,H,W] in the loss, and the codes [B,H/8,W/8] to learn.

    `seen` [B,3,H,W] is the encoder's input: the pixels, or Canny's edges instead of rendered outlines.
    """

    seen: Tensor
    pixels: Tensor
    weights: Tensor
    codes: Tensor


def scene_batch(rng: np.random.Generator, size: int, categories: Sequence[str]) -> CodecBatch:
    """Random pictures of these categories, some with small objects only, and maps of every kind."""
    panels = [_sample_panel(rng, categories) for _ in range(size)]
    pictures = [render(panel.scene, panel.map) for panel in panels]
    seen = [_seen(rng, *pair) for pair in zip(panels, pictures, strict=True)]
    weights = torch.from_numpy(np.stack([object_weights(panel) for panel in panels]))
    codes = torch.from_numpy(np.stack([panel_codes(panel) for panel in panels]))
    return CodecBatch(_pixels(seen), _pixels(pictures), weights[:, None], codes)


def _sample_panel(rng: np.random.Generator, categories: Sequence[str]) -> Panel:
    if rng.random() < MAP_SHARE:
        pair = sample_task(rng, "pair")
        return pair.upper if rng.random() < 0.25 else pair.lower
    scene, _ = sample_scene(rng, categories[rng.integers(len(categories))])
    return Panel(_shrink(scene) if rng.random() < SMALL_SHARE else scene)


def _seen(rng: np.random.Generator, panel: Panel, picture: np.ndarray) -> np.ndarray:
    real = panel.map == "canny" and rng.random() < REAL_CANNY_SHARE
    return canny(render(panel.scene)) if real else picture


def _pixels(pictures: Sequence[np.ndarray]) -> Tensor:
    return (torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()


def object_weights(panel: Panel, margin: int = 2) -> np.ndarray:
    """Weights [64,64] of a panel's pixels: 1, and around an object more, the less it differs from the background."""
    weights = np.ones((CANVAS, CANVAS), np.float32)
    ground = BACKGROUNDS["black" if panel.map else panel.scene.background]
    for thing in panel.scene.objects:
        contrast = math.dist(ink(thing, panel.map), ground)
        top, left = max(0, thing.y - margin), max(0, thing.x - margin)
        weights[top : thing.y + thing.side + margin, left : thing.x + thing.side + margin] = 600 / max(contrast, 100)
    return weights


def _shrink(scene: Scene) -> Scene:
    return replace(scene, objects=tuple(replace(thing, size="small") for thing in scene.objects))


def train(steps: int, seed: int) -> MoVQGAN:
    """A MoVQGAN trained from scratch: the encoder learns the code of each cell, the decoder to draw the codes.

    The codebook is that of the world's cells and fixed. The same arguments give the same weights on the same machine.
    """
    torch.manual_seed(seed)
    rng = training_rng(seed, WORKER)
    model = MoVQGAN(CONFIG)
    codebook = model.quantize.embedding.weight.requires_grad_(False)
    codebook.copy_(torch.from_numpy(code_vectors()))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    start = time.time()
    for step in range(steps):
        set_rate(optimizer, PEAK_RATE, step, steps)
        batch = scene_batch(rng, BATCH, CROWDED)
        reconstruction, latent = run_both(model, batch)
        loss = reconstruction + LATENT_WEIGHT * F.mse_loss(latent, model.lookup(batch.codes))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if step % 100 == 0:
            shown = (step, loss.item(), 100 * wrong_share(model, latent, batch), time.time() - start)
            logger.info("step %d loss %.4f, wrong codes %.2f %%, %.0f s", *shown)
    return model.eval()


def stack(batch: CodecBatch) -> CodecBatch:
    """The same pictures in pairs, one above the other, as canvases of two panels."""
    parts = (batch.seen, batch.pixels, batch.weights, batch.codes)
    return CodecBatch(*(torch.cat(part.chunk(2), dim=-2) for part in parts))


def polish(model: MoVQGAN, steps: int, seed: int, stacked_share: float = 0.0) -> MoVQGAN:
    """Trains encoder and decoder further on scenes of every kind, the encoder by the cross-entropy of the true code.

    The logit of a code is its vector's negative squared distance from the latent. `stacked_share` of the batches are
    canvases of two panels, whose group norms have other means, since they are over the whole picture.
    """
    torch.manual_seed(seed)
    rng = training_rng(seed, PANEL_WORKER if stacked_share else POLISH_WORKER)
    trained = [parameter for parameter in model.parameters() if parameter is not model.quantize.embedding.weight]
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=POLISH_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    for step in range(steps):
        set_rate(optimizer, POLISH_RATE, step, steps)
        batch = scene_batch(rng, BATCH, tuple(TRAINING_WEIGHTS))
        batch = stack(batch) if stacked_share and rng.random() < stacked_share else batch
        reconstruction, latent = run_both(model, batch)
        distance = torch.cdist(latent.movedim(1, -1).flatten(0, 2), model.quantize.embedding.weight)
        loss = reconstruction + F.cross_entropy(-distance.square() / POLISH_SPREAD, batch.codes.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if step % 100 == 0:
            shown = (step, loss.item(), 100 * wrong_share(model, latent, batch))
            logger.info("polishing, step %d loss %.4f, wrong codes %.2f %%", *shown)
    return model.eval()


def run_both(model: MoVQGAN, batch: CodecBatch) -> tuple[Tensor, Tensor]:
    """The weighted error of the picture decoded from the true codes, and the encoder's latent [B,4,8,8]."""
    vectors = model.lookup(batch.codes)
    with torch.autocast("cpu", torch.bfloat16):
        noisy = batch.seen + PIXEL_NOISE * torch.randn_like(batch.seen)
        latent = model.quant_conv(model.encoder(noisy)).float()
        error = model.decoder(model.post_quant_conv(vectors), vectors).float() - batch.pixels
    return (batch.weights * (error.abs() + error.square())).mean(), latent


def wrong_share(model: MoVQGAN, latent: Tensor, batch: CodecBatch) -> float:
    """Share of the codes to which the latent is not nearest."""
    return (model.nearest(latent.detach()) != batch.codes).float().mean().item()


def set_rate(
    optimizer: torch.optim.Optimizer, peak: float, step: int, steps: int, warmup: int = 100, fall: float = 1.0
) -> None:
    """Sets the rate: linear warm-up, the peak, then over the last share `fall` a cosine down to 2% of the peak."""
    start = max(warmup, (1 - fall) * steps)
    progress = max(0.0, (step - start) / max(1, steps - start))
    rate = peak * min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
    for group in optimizer.param_groups:
        group["lr"] = rate


def save(model: MoVQGAN, path: Path) -> None:
    """Writes the weights as float16 safetensors under the published names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path, metadata={"format": "pt"})


def make(path: Path, steps: int, polish_steps: int, most_panel_steps: int, seed: int) -> None:
    """Trains a MoVQGAN, saves it as `path` and polishes what was saved; a part with no steps is left out.

    Each of the last rounds, on canvases of two panels, has at most `most_panel_steps`.
    """
    if steps:
        save(train(steps, seed), path)
    if polish_steps:
        save(polish(load_movqgan(path), polish_steps, seed), path)
    for number, (panel_steps, stacked_share) in enumerate(PANEL_ROUNDS if most_panel_steps else ()):
        save(polish(load_movqgan(path), min(panel_steps, most_panel_steps), seed + number, stacked_share), path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for movqgan.safetensors")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--polish-steps", type=int, default=POLISH_STEPS)
    parser.add_argument("--most-panel-steps", type=int, default=MOST_PANEL_STEPS, help="in a round on two panels")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    make(options.out / FILE_NAME, options.steps, options.polish_steps, options.most_panel_steps, options.seed)


if __name__ == "__main__":
    main()
