"""Trains the demo's MoVQGAN on rendered scenes: python -m training.movqgan --out FOLDER"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lumina_core.movqgan.autoencoder import MoVQGAN
from lumina_core.movqgan.config import MoVQGANConfig

from .arguments import add_arguments, run_training
from .progress import Progress, TrainingState
from .world import (
    MAPS,
    Panel,
    canny,
    code_vectors,
    crowded_scene,
    looks,
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
    latent_channels=code_vectors().shape[1],
    code_channels=code_vectors().shape[1],
    codebook_size=len(looks()),
)
FILE_NAME, STATE = "movqgan.safetensors", "movqgan.training.pt"
STEPS, BATCH = 7500, 6
PEAK_RATE, WARM_UP, FALL = 2e-3, 100, 0.6
SPREAD = 0.25
CODE_WEIGHT = 0.1
OBJECT_WEIGHT = 3.0  # Of the pixels of objects; the others weigh 1.
GROUND_SHARE = 0.2  # Of the codes of ground, which are most of a picture, this share is in the loss.
PIXEL_NOISE = 0.02
CROWDED_SHARE, MAP_SHARE, REAL_CANNY_SHARE = 0.4, 0.3, 0.5
# From this share of the training on, half of the canvases have two panels, and some pictures are drawn ones.
TWO_PANELS_FROM, TWO_PANELS_SHARE, REDRAWN_SHARE = 0.5, 0.5, 0.3
WORKER = 1


@dataclass(frozen=True)
class CodecBatch:
    """Pixels [B,3,H,W] in [-1,1] to draw, their weights [B,1,H,W] in the loss, and the codes [B,H/8,W/8] to learn.

    `seen` [B,3,H,W] is the encoder's input: the pixels, or Canny's edges of the picture instead of rendered ones.
    """

    seen: Tensor
    pixels: Tensor
    weights: Tensor
    codes: Tensor

    def to(self, device: torch.device) -> "CodecBatch":
        return CodecBatch(*(part.to(device) for part in vars(self).values()))


def scene_batch(rng: np.random.Generator, size: int) -> CodecBatch:
    """Random pictures, some crowded, and maps of every kind."""
    panels = [_sample_panel(rng) for _ in range(size)]
    pictures = [render(panel.scene, panel.map) for panel in panels]
    seen = [_seen(rng, *pair) for pair in zip(panels, pictures, strict=True)]
    codes = torch.from_numpy(np.stack([panel_codes(panel) for panel in panels]))
    weights = torch.where(torch.from_numpy(_is_ground())[codes], 1.0, OBJECT_WEIGHT)
    weights = weights.repeat_interleave(8, 1).repeat_interleave(8, 2)
    return CodecBatch(_pixels(seen), _pixels(pictures), weights[:, None], codes)


def _sample_panel(rng: np.random.Generator) -> Panel:
    map = MAPS[rng.integers(len(MAPS))] if rng.random() < MAP_SHARE else None
    if map == "pose":
        pair = sample_task(rng, "pair", map)
        return pair.lower if rng.random() < 0.5 else pair.upper
    crowded = rng.random() < CROWDED_SHARE
    scene = crowded_scene(rng) if crowded else sample_scene(rng)[0]
    return Panel(scene, map)


def _seen(rng: np.random.Generator, panel: Panel, picture: np.ndarray) -> np.ndarray:
    real = panel.map == "canny" and rng.random() < REAL_CANNY_SHARE
    return canny(render(panel.scene)) if real else picture


def _pixels(pictures: Sequence[np.ndarray]) -> Tensor:
    return (torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()


def _is_ground() -> np.ndarray:
    return np.array([look.ground is not None for look in looks()])


def stack(batch: CodecBatch) -> CodecBatch:
    """The same pictures in pairs, one above the other, as canvases of two panels."""
    parts = (batch.seen, batch.pixels, batch.weights, batch.codes)
    return CodecBatch(*(torch.cat(part.chunk(2), dim=-2) for part in parts))


def train(model: MoVQGAN, progress: Progress, path: Path, seed: int, resume: bool) -> MoVQGAN:
    """Trains encoder, decoder and codebook to the end of `progress`, from the state in `path` where `resume` is set.

    The encoder learns the true code of each cell by cross-entropy, whose logits are the negative squared distances of
    the latent from the codebook's vectors; the decoder learns to draw the true codes. Without a limit of time, the same
    arguments give the same weights on the same machine.
    """
    rng, device = training_rng(seed, WORKER), model.quantize.embedding.weight.device
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=1e-4)
    state = TrainingState(path, model, [optimizer], rng, progress)
    if resume:
        state.load()
    ground = torch.from_numpy(_is_ground())
    while not progress.done:
        late = progress.share > TWO_PANELS_FROM
        batch = scene_batch(rng, BATCH)
        batch = stack(batch) if late and rng.random() < TWO_PANELS_SHARE else batch
        kept = ~ground[batch.codes] | torch.from_numpy(rng.random(batch.codes.shape) < GROUND_SHARE)
        redrawn = torch.from_numpy(rng.random(len(batch.codes)) < (REDRAWN_SHARE if late else 0))
        batch, kept = batch.to(device), kept.to(device)
        reconstruction, latent = run_both(model, batch, redrawn.to(device))
        logits = -torch.cdist(latent.movedim(1, -1)[kept], model.quantize.embedding.weight).square() / SPREAD
        codes = batch.codes[kept]
        loss = reconstruction + CODE_WEIGHT * F.cross_entropy(logits, codes)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        progress.set_rate(optimizer, PEAK_RATE, WARM_UP, FALL)
        optimizer.step()
        if progress.step % 50 == 0:
            wrong = 100 * (logits.argmax(-1) != codes).float().mean().item()
            shown = (progress.step, reconstruction.item(), wrong, progress.elapsed)
            logger.info("step %d, error of pixels %.4f, wrong codes %.2f %%, %.0f s", *shown)
        progress.advance()
        state.save_at_times()
    state.save()
    return model.eval()


def run_both(model: MoVQGAN, batch: CodecBatch, redrawn: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted error of the picture decoded from the true codes, and the encoder's latent [B,C,H/8,W/8].

    The encoder sees the decoded picture of those that `redrawn`, bool [B], names, as in editing over several turns.
    """
    vectors = model.quantize.embedding(batch.codes).movedim(-1, 1).contiguous()
    with torch.autocast(vectors.device.type, torch.bfloat16):
        drawn = model.decoder(model.post_quant_conv(vectors), vectors).float()
        seen = torch.where(redrawn[:, None, None, None], drawn.detach().clamp(-1, 1), batch.seen)
        latent = model.quant_conv(model.encoder(seen + PIXEL_NOISE * torch.randn_like(seen))).float()
    error = drawn - batch.pixels
    return (batch.weights * (error.abs() + error.square())).mean(), latent


def save(model: MoVQGAN, path: Path) -> None:
    """Writes the weights as float16 safetensors under the published names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.half().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path, metadata={"format": "pt"})


def make(folder: Path, steps: int, seconds: float | None, seed: int, resume: bool, device: torch.device) -> None:
    """Trains a MoVQGAN from scratch, or from the state in `folder`, and writes it there."""
    torch.manual_seed(seed)
    model = MoVQGAN(CONFIG)
    with torch.no_grad():
        model.quantize.embedding.weight.copy_(torch.from_numpy(code_vectors()))
    folder.mkdir(parents=True, exist_ok=True)
    save(train(model.to(device), Progress(steps, seconds), folder / STATE, seed, resume), folder / FILE_NAME)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.movqgan", description=__doc__)
    add_arguments(parser, "folder for movqgan.safetensors")
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args(arguments)
    rest = options.steps, options.seconds, options.seed, options.resume
    run_training(parser, options.device, lambda device: make(options.out, *rest, device))


if __name__ == "__main__":
    main()
