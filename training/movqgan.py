"""Trains the demo's MoVQGAN on rendered scenes: python -m training.movqgan --out FOLDER"""

import argparse
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lumina_core.movqgan import MoVQGAN, MoVQGANConfig, load_movqgan

from .world import BACKGROUNDS, CANVAS, COLOURS, Scene, render, sample_scene

logger = logging.getLogger(__name__)

CONFIG = MoVQGANConfig(
    channels=32,
    multipliers=(1, 1, 2, 4),
    res_blocks=1,
    attention_levels=(),
    latent_channels=4,
    code_channels=4,
    codebook_size=1024,
)
FILE_NAME = "movqgan.safetensors"
STEPS, WARMUP_STEPS, BATCH, PEAK_RATE = 4000, 150, 8, 1.5e-3
REFINE_STEPS, REFINE_RATE = 900, 5e-4
SMALL_SHARE = 0.7
COMMITMENT = 0.25
CROWDED = ("mixed", "counting", "colour_attribution", "position")


class CodebookTracker:
    """Moves each code vector to the running mean of the latents it serves; gives codes that serve none a new place."""

    def __init__(self, codebook: Tensor, latents: Tensor, generator: torch.Generator, decay: float = 0.99):
        self.codebook, self.generator, self.decay = codebook, generator, decay
        self.total = spread(latents, len(codebook), generator)
        self.count = torch.ones(len(codebook))
        codebook.copy_(self.total)

    @torch.no_grad()
    def update(self, latents: Tensor, codes: Tensor, revive: bool) -> None:
        """latents [N,C] and the code [N] of each; `revive` lets idle codes jump to random latents of this batch."""
        size = len(self.codebook)
        served = torch.bincount(codes, minlength=size).float()
        moved = torch.zeros_like(self.total).index_add_(0, codes, latents)
        self.count.lerp_(served, 1 - self.decay)
        self.total.lerp_(moved, 1 - self.decay)
        if revive:
            self._revive(latents)
        self.codebook.copy_(self.total / self.count.clamp_min(1e-5)[:, None])

    def _revive(self, latents: Tensor) -> None:
        idle = (self.count < 0.005).nonzero().flatten()
        chosen = torch.randint(len(latents), (len(idle),), generator=self.generator)
        self.total[idle] = latents[chosen]
        self.count[idle] = 1.0


def spread(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` of the points [N,C], drawn with a chance that grows with the distance from those before (k-means++)."""
    chosen = [points[0]]
    distance = (points - chosen[0]).square().sum(1)
    for _ in range(count - 1):
        index = torch.multinomial(distance + 1e-8, 1, generator=generator)
        chosen.append(points[index[0]])
        distance = torch.minimum(distance, (points - chosen[-1]).square().sum(1))
    return torch.stack(chosen)


def scene_batch(rng: np.random.Generator, size: int) -> Tensor:
    """Pixels [size,3,64,64] in [-1,1] of random scenes, most of them crowded."""
    pictures = [render(sample_scene(rng, CROWDED[rng.integers(len(CROWDED))])[0]) for _ in range(size)]
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return (pixels.float() / 127.5 - 1).contiguous()


def hard_batch(rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
    """Pixels as `scene_batch`, most objects small, and weights [size,1,64,64]: more where an object is hard to see."""
    scenes = [sample_scene(rng, CROWDED[rng.integers(len(CROWDED))])[0] for _ in range(size)]
    scenes = [_shrink(scene) if rng.random() < SMALL_SHARE else scene for scene in scenes]
    pixels = torch.from_numpy(np.stack([render(scene) for scene in scenes])).permute(0, 3, 1, 2)
    weights = torch.from_numpy(np.stack([object_weights(scene) for scene in scenes]))
    return (pixels.float() / 127.5 - 1).contiguous(), weights[:, None]


def object_weights(scene: Scene, margin: int = 2) -> np.ndarray:
    """Weights [64,64] of a scene's pixels: 1, and around an object more, the nearer its colour is to the ground's."""
    weights = np.ones((CANVAS, CANVAS), np.float32)
    for thing in scene.objects:
        contrast = math.dist(COLOURS[thing.colour], BACKGROUNDS[scene.background])
        top, left = max(0, thing.y - margin), max(0, thing.x - margin)
        weights[top : thing.y + thing.side + margin, left : thing.x + thing.side + margin] = 600 / max(contrast, 100)
    return weights


def _shrink(scene: Scene) -> Scene:
    return replace(scene, objects=tuple(replace(thing, size="small") for thing in scene.objects))


def refine(model: MoVQGAN, steps: int, seed: int) -> MoVQGAN:
    """Trains encoder and decoder on with a fixed codebook, on small objects and faint colours above all."""
    rng = np.random.default_rng([seed, 1])
    trained = [parameter for parameter in model.parameters() if parameter is not model.quantize.embedding.weight]
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=REFINE_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    for step in range(steps):
        set_rate(optimizer, REFINE_RATE, step, steps)
        pixels, weights = hard_batch(rng, BATCH)
        loss, _, _ = losses(model, pixels, quantise=True, weights=weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if step % 100 == 0:
            logger.info("refining, step %d loss %.4f", step, loss.item())
    return model.eval()


def train(steps: int, seed: int) -> MoVQGAN:
    """A MoVQGAN trained from nothing: first as a plain autoencoder, then with the codebook.

    The same steps and seed give the same weights on the same machine.
    """
    torch.manual_seed(seed)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    model = MoVQGAN(CONFIG)
    codebook = model.quantize.embedding.weight.requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    tracker, start = None, time.time()
    for step in range(steps):
        if step == WARMUP_STEPS:
            tracker = CodebookTracker(codebook, sample_latents(model, rng), generator)
        set_rate(optimizer, PEAK_RATE, step, steps)
        loss, latents, codes = losses(model, scene_batch(rng, BATCH), quantise=tracker is not None)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if tracker is not None:
            tracker.update(latents, codes, revive=step % 10 == 0 and step < 0.7 * steps)
        if step % 100 == 0:
            used = len(codes.unique())
            logger.info("step %d loss %.4f codes in batch %d, %.0f s", step, loss.item(), used, time.time() - start)
    return model.eval()


@torch.no_grad()
def sample_latents(model: MoVQGAN, rng: np.random.Generator) -> Tensor:
    """Latents [N,C] of some hundred pictures."""
    batches = [losses(model, scene_batch(rng, BATCH), quantise=False)[1] for _ in range(24)]
    return torch.cat(batches)


def losses(
    model: MoVQGAN, pixels: Tensor, quantise: bool, weights: Tensor | float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Reconstruction (pixels weighted) plus commitment loss, the latents [N,C] and their codes [N]."""
    with torch.autocast("cpu", torch.bfloat16):
        latent = model.quant_conv(model.encoder(pixels)).float()
        codes = model.nearest(latent.detach())
        quantised = model.lookup(codes) if quantise else latent
        straight = latent + (quantised - latent).detach()
        restored = model.decoder(model.post_quant_conv(straight), straight).float()
    commitment = F.mse_loss(latent, quantised.detach())
    error = restored - pixels
    loss = (weights * (error.abs() + error.square())).mean() + COMMITMENT * commitment
    return loss, latent.detach().permute(0, 2, 3, 1).flatten(0, 2), codes.flatten()


def set_rate(optimizer: torch.optim.Optimizer, peak: float, step: int, steps: int, warmup: int = 100) -> None:
    """Linear warm-up, then a cosine down to 2% of the peak."""
    progress = max(0.0, (step - warmup) / max(1, steps - warmup))
    rate = peak * min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
    for group in optimizer.param_groups:
        group["lr"] = rate


def save(model: MoVQGAN, path: Path) -> None:
    """Writes the weights as float16 safetensors under the published names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path, metadata={"format": "pt"})


def make(path: Path, steps: int, refine_steps: int, seed: int) -> None:
    """Trains a MoVQGAN and refines what was saved of it, into the file `path`; no steps: refines the one there is."""
    if steps:
        save(train(steps, seed), path)
    save(refine(load_movqgan(path), refine_steps, seed), path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: `python -m training.movqgan --out FOLDER`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder that gets movqgan.safetensors")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--refine-steps", type=int, default=REFINE_STEPS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    make(options.out / FILE_NAME, options.steps, options.refine_steps, options.seed)


if __name__ == "__main__":
    main()
