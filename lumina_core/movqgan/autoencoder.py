"""SBER-MoVQGAN: encodes a picture as a grid of codes and decodes codes to pixels."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import operations as default_operations
from ..errors import InputError
from .blocks import DownLevel, Middle, UpLevel, apply_norm, make_norm
from .config import MoVQGANConfig
from .strips import decode_in_strips, encode_in_strips

STRIP_CONTEXT_ROWS = 4
# Positions per distance matrix in `nearest`, which takes 64 MB for 16,384 codes.
NEAREST_POSITIONS = 1024


class Encoder(nn.Module):
    """Maps pixels [B,3,H,W] to a latent [B,C,h,w]."""

    def __init__(self, config: MoVQGANConfig, operations: Any):
        super().__init__()
        widths, last = config.widths, len(config.widths) - 1
        self.conv_in = operations.Conv2d(config.picture_channels, config.channels, 3, padding=1)
        self.down = nn.ModuleList()
        for index, width in enumerate(widths):
            width_in = widths[index - 1] if index else config.channels
            sizes = (width_in, width, config.res_blocks, index in config.attention_levels)
            self.down.append(DownLevel(*sizes, latent_channels=None, operations=operations, last=index == last))
        self.mid = Middle(widths[-1], None, operations)
        self.norm_out = make_norm(widths[-1], None, operations)
        self.conv_out = operations.Conv2d(widths[-1], config.latent_channels, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv_in(pixels)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(apply_norm(self.norm_out, self.mid(x), None)))


class Decoder(nn.Module):
    """Maps a latent [B,C,h,w] to pixels [B,3,H,W]. The quantised latent conditions every norm."""

    def __init__(self, config: MoVQGANConfig, operations: Any):
        super().__init__()
        widths, codes, blocks = config.widths, config.code_channels, config.res_blocks + 1
        self.conv_in = operations.Conv2d(config.latent_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], codes, operations)
        self.up = nn.ModuleList()
        for index, width in enumerate(widths):
            width_in = widths[min(index + 1, len(widths) - 1)]
            sizes = (width_in, width, blocks, index in config.attention_levels)
            self.up.append(UpLevel(*sizes, latent_channels=codes, operations=operations, last=index == 0))
        self.norm_out = make_norm(widths[0], codes, operations)
        self.conv_out = operations.Conv2d(widths[0], config.picture_channels, 3, padding=1)

    def forward(self, latent: Tensor, quantised: Tensor) -> Tensor:
        x = self.mid(self.conv_in(latent), quantised)
        for level in reversed(self.up):
            x = level(x, quantised)
        return self.conv_out(F.silu(apply_norm(self.norm_out, x, quantised)))


class Codebook(nn.Module):
    """The code vectors [codes,C]."""

    def __init__(self, config: MoVQGANConfig, operations: Any):
        super().__init__()
        self.embedding = operations.Embedding(config.codebook_size, config.code_channels)


class MoVQGAN(nn.Module):
    """The image tokenizer of Lumina-mGPT 2.0. Codes are int64 [B,h,w]; pixels are [B,3,H,W] in [-1,1]."""

    def __init__(self, config: MoVQGANConfig, operations: Any = default_operations):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, operations)
        self.decoder = Decoder(config, operations)
        self.quantize = Codebook(config, operations)
        self.quant_conv = operations.Conv2d(config.latent_channels, config.code_channels, 1)
        self.post_quant_conv = operations.Conv2d(config.code_channels, config.latent_channels, 1)

    @property
    def dtype(self) -> torch.dtype:
        return self.quantize.embedding.weight.dtype

    @property
    def weight_device(self) -> torch.device:
        """ComfyUI sets an attribute `device` on models, so this one has another name."""
        return self.quantize.embedding.weight.device

    def encode(self, pixels: Tensor, strip_rows: int | None = None) -> Tensor:
        """Codes [B,h,w] of pixels [B,3,H,W] in [-1,1]; `strip_rows` as in `decode`.

        Raises InputError as `check_pixels` does.
        """
        self.check_pixels(pixels)
        return self.nearest(self.encode_latent(pixels, strip_rows))

    def check_pixels(self, pixels: Tensor) -> None:
        """Raises InputError unless pixels are floats [B,3,H,W] with H and W in multiples of the downscale (8)."""
        side, channels = self.config.downscale, self.config.picture_channels
        if pixels.ndim != 4 or pixels.shape[1] != channels or not pixels.is_floating_point():
            raise InputError(
                f"pixels are {pixels.dtype} {tuple(pixels.shape)}; expected floats [B,{channels},H,W] in [-1,1]"
            )
        height, width = pixels.shape[-2:]
        if height % side or width % side or 0 in pixels.shape:
            nearest = f"{max(side, width - width % side)}x{max(side, height - height % side)}"
            raise InputError(
                f"the picture is {width}x{height}; expected sides in multiples of {side}: crop or resize it to "
                f"{nearest} first"
            )

    def encode_latent(self, pixels: Tensor, strip_rows: int | None = None) -> Tensor:
        """The latent [B,C,h,w] of pixels before quantisation to the codebook."""
        pixels = pixels.to(self.dtype)
        if strip_rows is None:
            return self.quant_conv(self.encoder(pixels))
        return self.quant_conv(encode_in_strips(self.encoder, pixels, strip_rows))

    def decode(self, codes: Tensor, strip_rows: int | None = None) -> Tensor:
        """Pixels [B,3,H,W] of codes [B,h,w], about in [-1,1], not clamped. Raises InputError for codes out of range.

        With `strip_rows`, every layer runs in strips of that many rows. The picture is the same but for rounding; it
        takes about a third of the memory and a little more time.
        """
        return self.decode_latent(self.lookup(codes), strip_rows)

    def decode_latent(self, quantised: Tensor, strip_rows: int | None = None) -> Tensor:
        """Pixels [B,3,H,W] of code vectors [B,C,h,w], as `lookup` returns them; `strip_rows` as in `decode`."""
        quantised = quantised.to(self.dtype)
        latent = self.post_quant_conv(quantised)
        if strip_rows is None:
            return self.decoder(latent, quantised)
        return decode_in_strips(self.decoder, latent, quantised, strip_rows)

    def decode_rows(self, codes: Tensor, first_row: int, end_row: int) -> Tensor:
        """Pixels [B,3,8·(end_row−first_row),W] of some rows of codes [B,h,w], for previews.

        Decodes these rows and STRIP_CONTEXT_ROWS above and below. Norms and attention see this part only, so the
        result is close to `decode`, but not equal.
        """
        above = max(0, first_row - STRIP_CONTEXT_ROWS)
        below = min(codes.shape[1], end_row + STRIP_CONTEXT_ROWS)
        pixels = self.decode(codes[:, above:below])
        side = self.config.downscale
        return pixels[:, :, (first_row - above) * side : (end_row - above) * side]

    def lookup(self, codes: Tensor) -> Tensor:
        """Code vectors [B,C,h,w] of codes [B,h,w]. Raises InputError for codes out of range."""
        if codes.ndim != 3 or codes.numel() == 0 or codes.is_floating_point():
            raise InputError(f"codes are {codes.dtype} {tuple(codes.shape)}; expected integers [B,h,w]")
        low, high = int(codes.min()), int(codes.max())
        if low < 0 or high >= self.config.codebook_size:
            raise InputError(f"codes are in {low}…{high}; expected 0…{self.config.codebook_size - 1}")
        return self.quantize.embedding(codes.long()).permute(0, 3, 1, 2).contiguous()

    def nearest(self, latent: Tensor) -> Tensor:
        """Codes [B,h,w] of the code vectors nearest to a latent [B,C,h,w], by Euclidean distance in float32."""
        flat = latent.permute(0, 2, 3, 1).flatten(0, 2).float()
        table = self.quantize.embedding.weight.to(device=flat.device, dtype=torch.float32)
        squared_norms = table.square().sum(1)
        parts = flat.split(NEAREST_POSITIONS)
        # |x - c|² without |x|², which is the same for every code c.
        codes = [torch.addmm(squared_norms, part, table.T, alpha=-2).argmin(-1) for part in parts]
        return torch.cat(codes).view(latent.shape[0], *latent.shape[2:])
