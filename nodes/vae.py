"""The MoVQGAN as a VAE object for ComfyUI's core nodes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..lumina_core.device import explain_out_of_memory
from ..lumina_core.errors import InputError, OutOfMemory
from ..lumina_core.movqgan.autoencoder import MoVQGAN
from ..lumina_core.movqgan.codec import decode_picture, encode_picture
from ..lumina_core.movqgan.config import STRIP_ROWS
from ..lumina_core.movqgan.load import load_movqgan
from ..lumina_core.pictures.sizes import Size
from ..lumina_core.tokens.vocabulary import Vocabulary
from . import comfy_adapter as comfy_ui
from .kept import keep_codes
from .latents import samples_of
from .node import with_builtin_errors
from .patchers import patcher_of
from .pictures import from_planes, to_planes

CODES_KEY = "lumina_codes"
SAME_CODE = 1e-3


class MoVQGANVae:
    """A MoVQGAN for the core nodes VAE Decode and VAE Encode, tiled or not, and for the nodes of this pack.

    Latents are code vectors [B,C,H/8,W/8], C = 4 with the published MoVQGAN; other vectors are snapped to the nearest
    codes before decoding. `source` is the file that the MoVQGAN was loaded from, `trained_sizes` are those of the model
    that it belongs to (None: the published ones).
    """

    latent_dim = 2
    output_channels = 3
    not_video = True

    def __init__(self, movqgan: MoVQGAN, source: Path, trained_sizes: Sequence[Size] | None = None):
        self.first_stage_model, self.source, self.trained_sizes = movqgan, source, trained_sizes
        # Of the model that drew last with this codec: codes that cannot be decoded are kept as its tokens.
        self.vocabulary: Vocabulary | None = None
        comfy_ui.check_interrupted_at_layers(movqgan)
        self.device = comfy_ui.vae_device()
        self.output_device = comfy_ui.output_device()
        self.vae_dtype = movqgan.dtype
        self.latent_channels = movqgan.config.code_channels
        self.downscale_ratio = self.upscale_ratio = movqgan.config.downscale
        self.patcher = patcher_of(movqgan, self.device, comfy_ui.vae_offload_device())

    # The interface of ComfyUI's VAE

    @with_builtin_errors
    def decode(self, samples: Tensor, vae_options: dict | None = None) -> Tensor:
        """Pictures [B,H,W,3] in 0…1 of latents [B,C,h,w]."""
        return self.decode_codes(self.snap(samples))

    @with_builtin_errors
    def decode_tiled(self, samples: Tensor, tile_x=64, tile_y=64, overlap=16, tile_t=None, overlap_t=None) -> Tensor:
        """As `decode`, in tiles of latents. Norms and attention cover a tile, not the whole picture."""
        tile, overlap = (tile_x or 64, tile_y or 64), 16 if overlap is None else overlap
        vectors = self.lookup(self.snap(samples))
        self.load(self.picture_bytes(*tile))
        size = self.upscale_ratio, self.output_channels
        return from_planes(comfy_ui.tiled(vectors, self._decode_tile, tile, overlap, *size))

    @with_builtin_errors
    def encode(self, pixels: Tensor) -> Tensor:
        """Latents [B,C,H/8,W/8] of pictures [B,H,W,C] in 0…1: the vectors of their codes."""
        return self.lookup(self.encode_codes(pixels))

    @with_builtin_errors
    def encode_tiled(self, pixels: Tensor, tile_x=512, tile_y=512, overlap=64, tile_t=None, overlap_t=None) -> Tensor:
        """As `encode`, in tiles of pixels."""
        side, tile, overlap = self.downscale_ratio, (tile_x or 512, tile_y or 512), 64 if overlap is None else overlap
        planes = to_planes(pixels)
        self.first_stage_model.check_pixels(planes)
        self.load(self.picture_bytes(*(length // side for length in tile)))
        latent = comfy_ui.tiled(planes, self._encode_tile, tile, overlap, 1 / side, self.latent_channels)
        return self.lookup(self.snap(latent))

    def spacial_compression_decode(self) -> int:
        return self.upscale_ratio

    def spacial_compression_encode(self) -> int:
        return self.downscale_ratio

    def temporal_compression_decode(self) -> None:
        return None

    def throw_exception_if_invalid(self) -> None:
        """Does nothing: a broken file raises an error while loading."""

    def get_sd(self) -> dict[str, Tensor]:
        return self.first_stage_model.state_dict()

    def vae_output_dtype(self) -> torch.dtype:
        return torch.float32

    def is_dynamic(self) -> bool:
        """Whether ComfyUI's dynamic VRAM moves the weights."""
        is_dynamic = getattr(self.patcher, "is_dynamic", None)
        return bool(is_dynamic and is_dynamic())

    # Codes

    def snap(self, samples: Tensor) -> Tensor:
        """The codes [B,h,w] nearest to latents [B,C,h,w]. Raises InputError for a latent of another model."""
        if samples.ndim == 5 and samples.shape[2] == 1:
            samples = samples[:, :, 0]
        if samples.ndim != 4 or samples.shape[1] != self.latent_channels:
            raise InputError(
                f"the latent has shape {tuple(samples.shape)}; expected [B,{self.latent_channels},h,w] of Lumina-mGPT "
                "2.0's MoVQGAN: decode a latent with the VAE of the model that made it"
            )
        if broken := int((~samples.isfinite()).sum()):
            raise InputError(
                f"the latent holds {broken} values that are NaN or infinite, of {samples.numel()}; expected finite "
                "values: see which node made them"
            )
        return self.first_stage_model.nearest(samples.to(self.device)).cpu()

    def codes_of(self, latent: dict) -> Tensor:
        """The codes [B,h,w] of a LATENT: the stored ones if they match its samples, else the nearest."""
        samples, codes = samples_of(latent), latent.get(CODES_KEY)
        if isinstance(codes, Tensor) and self._are_codes_of(codes, samples):
            return codes
        return self.snap(samples)

    def latent_of(self, codes: Tensor) -> dict:
        """The LATENT of codes [B,h,w]: their vectors and the codes."""
        codes = codes.cpu()
        return {"samples": self.lookup(codes).to(self.output_device), CODES_KEY: codes}

    def lookup(self, codes: Tensor) -> Tensor:
        """Code vectors [B,C,h,w] (float32, on the CPU) of codes [B,h,w]."""
        self.load(0)
        return self.first_stage_model.lookup(codes.to(self.device)).float().cpu()

    def encode_codes(self, pixels: Tensor) -> Tensor:
        """Codes [B,H/8,W/8] of pictures [B,H,W,C] in 0…1. Raises InputError if a side is not a multiple of 8."""
        planes = to_planes(pixels)
        self.first_stage_model.check_pixels(planes)
        return self.encode_planes(planes)

    def encode_planes(self, planes: Tensor) -> Tensor:
        """Codes [B,H/8,W/8] on the CPU of planes [B,3,H,W] in [-1,1]; memory as in `decode_codes`."""
        self.make_room(*(side // self.downscale_ratio for side in planes.shape[-2:]))
        with comfy_ui.unloading_when_full():
            return torch.cat([self._encode_one(plane) for plane in planes.split(1)])

    def decode_codes(self, codes: Tensor) -> Tensor:
        """Pictures [B,H,W,3] in 0…1 of codes [B,h,w], decoded one at a time.

        A picture that does not fit in memory is decoded in strips, with the same result up to rounding. Raises
        OutOfMemory if strips do not fit either; the codes of a sampler are then kept.
        """
        with self._kept_when_full(codes):
            return self._decode_all(codes)

    def view(self, codes: Tensor) -> Tensor:
        """As `decode_codes`, of pictures that are not complete; keeps nothing.

        Norms and attention cover the rows that there are, so the complete picture looks different.
        """
        return self._decode_all(codes)

    def decode_rows(self, codes: Tensor, first_row: int, end_row: int) -> Tensor:
        """Pixels [1,3,8·rows,W] in [-1,1] on the CPU of some rows of codes [1,h,w], for a preview."""
        return self.first_stage_model.decode_rows(codes.to(self.device), first_row, end_row).float().cpu()

    @contextlib.contextmanager
    def _kept_when_full(self, codes: Tensor) -> Iterator[None]:
        try:
            yield
        except OutOfMemory:
            if self.vocabulary is not None:
                keep_codes(codes, self.vocabulary)
            raise

    def _are_codes_of(self, codes: Tensor, samples: Tensor) -> bool:
        if codes.shape != samples.shape[:1] + samples.shape[2:]:
            return False
        return torch.allclose(self.lookup(codes), samples.float().cpu(), rtol=SAME_CODE, atol=0)

    # Memory

    def load(self, bytes_needed: float) -> None:
        comfy_ui.load([self.patcher], bytes_needed)

    def make_room(self, grid_h: int, grid_w: int) -> None:
        """Loads the weights and frees memory for one picture: whole if the device is large enough, else in strips."""
        whole = self.picture_bytes(grid_h, grid_w)
        fits = whole + self.patcher.model_size() <= comfy_ui.total_bytes(self.device)
        self.load(whole if fits else self.picture_bytes(grid_h, grid_w, STRIP_ROWS))

    def picture_bytes(self, grid_h: int, grid_w: int, strip_rows: int | None = None) -> int:
        """Estimated bytes to encode or decode one picture, without the weights; whole or in strips."""
        return self.first_stage_model.config.picture_bytes(grid_h, grid_w, self.vae_dtype.itemsize, strip_rows)

    def _decode_all(self, codes: Tensor) -> Tensor:
        self.make_room(*codes.shape[-2:])
        with comfy_ui.unloading_when_full():
            return torch.cat([from_planes(self._decode_one(one)) for one in codes.split(1)])

    def _decode_one(self, codes: Tensor) -> Tensor:
        free = comfy_ui.free_bytes(self.device)
        return decode_picture(self.first_stage_model, codes.to(self.device), free).float().to(self.output_device)

    def _encode_one(self, plane: Tensor) -> Tensor:
        return encode_picture(self.first_stage_model, plane.to(self.device), comfy_ui.free_bytes(self.device)).cpu()

    def _decode_tile(self, vectors: Tensor) -> Tensor:
        return self.first_stage_model.decode_latent(vectors.to(self.device)).float()

    def _encode_tile(self, planes: Tensor) -> Tensor:
        return self.first_stage_model.encode_latent(planes.to(self.device)).float()


def load_movqgan_vae(path: Path, trained_sizes: Sequence[Size] | None) -> MoVQGANVae:
    """Loads a MoVQGAN file as a VAE object; for `trained_sizes` see there. Raises CheckpointError and OutOfMemory."""
    movqgan = explain_out_of_memory(
        lambda: load_movqgan(
            path, dtype=comfy_ui.vae_dtype(), device=comfy_ui.vae_offload_device(), operations=comfy_ui.Operations
        ),
        lambda: f"out of memory while loading {path}; close other programs that use the memory",
    )
    return MoVQGANVae(movqgan, path, trained_sizes)


def require_movqgan(vae: object) -> MoVQGANVae:
    """The VAE, if it is a MoVQGAN. Raises InputError otherwise."""
    if not isinstance(vae, MoVQGANVae):
        raise InputError(
            f"the VAE is a {type(vae).__name__} of another model; connect the vae of Lumina Loader, or Load MoVQGAN"
        )
    return vae
