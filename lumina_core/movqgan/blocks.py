"""Layers of SBER-MoVQGAN. `operations` is a namespace of layer classes: `torch.nn`, or ComfyUI's.

Every `latent` argument is the quantised latent [B,C,h,w] that conditions the norms of the decoder (MoVQ,
arXiv 2209.09002, equation 4). The norms of the encoder are plain, and its `latent` is None.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import NORM_GROUPS

NORM_EPS = 1e-6


class SpatialNorm(nn.Module):
    """GroupNorm(x) · scale + shift, where scale and shift are 1×1 convolutions of the quantised latent."""

    def __init__(self, width: int, latent_channels: int, operations: Any):
        super().__init__()
        self.norm_layer = operations.GroupNorm(NORM_GROUPS, width, eps=NORM_EPS)
        self.conv_y = operations.Conv2d(latent_channels, width, 1)
        self.conv_b = operations.Conv2d(latent_channels, width, 1)

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        # A 1×1 convolution commutes with nearest resizing and is cheaper before it.
        scale = F.interpolate(self.conv_y(latent), size=x.shape[-2:], mode="nearest")
        shift = F.interpolate(self.conv_b(latent), size=x.shape[-2:], mode="nearest")
        return torch.addcmul(shift, self.norm_layer(x), scale)


def make_norm(width: int, latent_channels: int | None, operations: Any) -> nn.Module:
    """A plain GroupNorm where `latent_channels` is None, else one that is conditioned on the latent."""
    if latent_channels is None:
        return operations.GroupNorm(NORM_GROUPS, width, eps=NORM_EPS)
    return SpatialNorm(width, latent_channels, operations)


def apply_norm(norm: nn.Module, x: Tensor, latent: Tensor | None) -> Tensor:
    return norm(x) if latent is None else norm(x, latent)


class ResnetBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))). Where the width changes, the skip is a 1×1 convolution of x."""

    def __init__(self, width_in: int, width_out: int, latent_channels: int | None, operations: Any):
        super().__init__()
        self.norm1 = make_norm(width_in, latent_channels, operations)
        self.conv1 = operations.Conv2d(width_in, width_out, 3, padding=1)
        self.norm2 = make_norm(width_out, latent_channels, operations)
        self.conv2 = operations.Conv2d(width_out, width_out, 3, padding=1)
        self.nin_shortcut = operations.Conv2d(width_in, width_out, 1) if width_in != width_out else None

    def forward(self, x: Tensor, latent: Tensor | None = None) -> Tensor:
        hidden = self.conv1(F.silu(apply_norm(self.norm1, x, latent)))
        hidden = self.conv2(F.silu(apply_norm(self.norm2, hidden, latent)))
        return hidden + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class AttnBlock(nn.Module):
    """x + proj_out(single-head self-attention over all positions of norm(x))."""

    def __init__(self, width: int, latent_channels: int | None, operations: Any):
        super().__init__()
        self.norm = make_norm(width, latent_channels, operations)
        self.q = operations.Conv2d(width, width, 1)
        self.k = operations.Conv2d(width, width, 1)
        self.v = operations.Conv2d(width, width, 1)
        self.proj_out = operations.Conv2d(width, width, 1)

    def forward(self, x: Tensor, latent: Tensor | None = None) -> Tensor:
        hidden = apply_norm(self.norm, x, latent)
        query, key, value = (
            layer(hidden).flatten(2).transpose(1, 2).unsqueeze(1).contiguous() for layer in (self.q, self.k, self.v)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        return x + self.proj_out(mixed.squeeze(1).transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    """Pads right and bottom by one, then halves both sides by a 3×3 convolution of stride 2."""

    def __init__(self, width: int, operations: Any):
        super().__init__()
        self.conv = operations.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles both sides by nearest neighbour, then applies a 3×3 convolution."""

    def __init__(self, width: int, operations: Any):
        super().__init__()
        self.conv = operations.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Middle(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, width: int, latent_channels: int | None, operations: Any):
        super().__init__()
        self.block_1 = ResnetBlock(width, width, latent_channels, operations)
        self.attn_1 = AttnBlock(width, latent_channels, operations)
        self.block_2 = ResnetBlock(width, width, latent_channels, operations)

    def forward(self, x: Tensor, latent: Tensor | None = None) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x, latent), latent), latent)


class Level(nn.Module):
    """The residual blocks of one resolution, each followed by attention where the level has attention."""

    def __init__(
        self,
        width_in: int,
        width_out: int,
        blocks: int,
        attention: bool,
        *,
        latent_channels: int | None,
        operations: Any,
    ):
        super().__init__()
        widths = [width_in] + [width_out] * blocks
        self.block = nn.ModuleList(ResnetBlock(a, width_out, latent_channels, operations) for a in widths[:-1])
        self.attn = nn.ModuleList(AttnBlock(width_out, latent_channels, operations) for _ in range(blocks * attention))

    def forward(self, x: Tensor, latent: Tensor | None = None) -> Tensor:
        for index, block in enumerate(self.block):
            x = block(x, latent)
            if self.attn:
                x = self.attn[index](x, latent)
        return x


class DownLevel(Level):
    """A level of the encoder. All levels but the last end with `downsample`."""

    def __init__(self, *sizes: Any, latent_channels: int | None, operations: Any, last: bool):
        super().__init__(*sizes, latent_channels=latent_channels, operations=operations)
        self.downsample = None if last else Downsample(sizes[1], operations)

    def forward(self, x: Tensor, latent: Tensor | None = None) -> Tensor:
        x = super().forward(x, latent)
        return x if self.downsample is None else self.downsample(x)


class UpLevel(Level):
    """A level of the decoder. All levels but the one at full resolution end with `upsample`."""

    def __init__(self, *sizes: Any, latent_channels: int | None, operations: Any, last: bool):
        super().__init__(*sizes, latent_channels=latent_channels, operations=operations)
        self.upsample = None if last else Upsample(sizes[1], operations)

    def forward(self, x: Tensor, latent: Tensor | None = None) -> Tensor:
        x = super().forward(x, latent)
        return x if self.upsample is None else self.upsample(x)
