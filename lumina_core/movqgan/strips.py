"""Runs the layers of MoVQGAN in strips of rows: the same result but for rounding, in a fraction of the memory.

A norm uses the statistics of the whole picture, accumulated strip by strip first. A 3×3 convolution reads one row
beyond its strip. So there are no seams. Live at once are two feature maps (input and output of a layer) and the
temporary tensors of one strip. `quantised` is the latent that conditions the norms of the decoder. Modules whose type
torch does not know, or that import this module, are `Any`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from .blocks import Downsample, Middle, SpatialNorm, Upsample

Rows = Callable[[int, int], Tensor]


@torch.no_grad()
def decode_in_strips(decoder: Any, latent: Tensor, quantised: Tensor, rows: int) -> Tensor:
    """The result of `decoder(latent, quantised)`, in strips of `rows` output rows of every layer."""
    strips = _Strips(rows, quantised)
    x = strips.middle(decoder.mid, strips.convolve(decoder.conv_in, latent))
    for level in reversed(decoder.up):
        x = strips.blocks(level, x)
        x = x if level.upsample is None else strips.upsample(level.upsample, x)
    return strips.convolve(decoder.conv_out, x, strips.activated(decoder.norm_out, x))


@torch.no_grad()
def encode_in_strips(encoder: Any, pixels: Tensor, rows: int) -> Tensor:
    """The result of `encoder(pixels)`, in strips of `rows` output rows of every layer."""
    strips = _Strips(rows, None)
    x = strips.convolve(encoder.conv_in, pixels)
    for level in encoder.down:
        x = strips.blocks(level, x)
        x = x if level.downsample is None else strips.downsample(level.downsample, x)
    x = strips.middle(encoder.mid, x)
    return strips.convolve(encoder.conv_out, x, strips.activated(encoder.norm_out, x))


class _Strips:
    """Runs layers strip by strip. A block overwrites its input with its output."""

    def __init__(self, rows: int, quantised: Tensor | None):
        if rows < 1:
            raise InputError(f"strips have {rows} rows; expected 1 or more, or None for the whole picture")
        self.rows, self.quantised = rows, quantised

    def middle(self, middle: Middle, x: Tensor) -> Tensor:
        return self.block(middle.block_2, self.attention(middle.attn_1, self.block(middle.block_1, x)))

    def blocks(self, level: Any, x: Tensor) -> Tensor:
        for index, block in enumerate(level.block):
            x = self.block(block, x)
            if level.attn:
                x = self.attention(level.attn[index], x)
        return x

    def block(self, block: Any, x: Tensor) -> Tensor:
        hidden = self.convolve(block.conv1, x, self.activated(block.norm1, x))
        skip = x if block.nin_shortcut is None else self.shortcut(block.nin_shortcut, x)
        return self.convolve(block.conv2, hidden, self.activated(block.norm2, hidden), add_to=skip)

    def shortcut(self, layer: nn.Conv2d, x: Tensor) -> Tensor:
        """A 1×1 convolution, written into the first channels of its input if there are enough."""
        out = x[:, : layer.out_channels] if layer.out_channels <= x.shape[1] else _empty(layer, x, x.shape[2])
        for first, end in self.spans(x.shape[2]):
            out[:, :, first:end] = layer(x[:, :, first:end])
        return out

    def attention(self, attn: Any, x: Tensor) -> Tensor:
        """Queries in strips, keys and values whole; they are small at the resolutions with attention."""
        normed = self.normed(attn.norm, x)
        hidden = torch.cat([normed(first, end) for first, end in self.spans(x.shape[2])], 2)
        key, value = (_positions(layer(hidden)) for layer in (attn.k, attn.v))
        for first, end in self.spans(x.shape[2]):
            strip = x[:, :, first:end]
            mixed = F.scaled_dot_product_attention(_positions(attn.q(hidden[:, :, first:end])), key, value)
            strip += attn.proj_out(mixed.squeeze(1).transpose(1, 2).reshape(strip.shape))
        return x

    def convolve(self, layer: nn.Conv2d, x: Tensor, rows: Rows | None = None, add_to: Tensor | None = None) -> Tensor:
        """A 3×3 convolution of x [B,C,H,W], or of `rows(first, end)` instead of its rows; added to `add_to` if given.

        The layer pads each strip by a row of zeros, which is correct at the picture's edge. Elsewhere the strip
        includes the row beyond, and the output row at the padding is dropped.
        """
        height, rows = x.shape[2], rows or (lambda first, end: x[:, :, first:end])
        out = _empty(layer, x, height) if add_to is None else add_to
        for first, end in self.spans(height):
            above, below = max(0, first - 1), min(height, end + 1)
            result = layer(rows(above, below))[:, :, first - above : end - above]
            if add_to is None:
                out[:, :, first:end] = result
            else:
                out[:, :, first:end] += result
        return out

    def upsample(self, upsample: Upsample, x: Tensor) -> Tensor:
        out = _empty(upsample.conv, x, 2 * x.shape[2], 2 * x.shape[3])
        for first, end in self.spans(x.shape[2], max(1, self.rows // 2)):
            above, below = max(0, first - 1), min(x.shape[2], end + 1)
            doubled = F.interpolate(x[:, :, above:below], scale_factor=2.0, mode="nearest")
            out[:, :, 2 * first : 2 * end] = upsample.conv(doubled)[:, :, 2 * (first - above) : 2 * (end - above)]
        return out

    def downsample(self, downsample: Downsample, x: Tensor) -> Tensor:
        height = x.shape[2] // 2
        out = _empty(downsample.conv, x, height, x.shape[3] // 2)
        for first, end in self.spans(height):
            strip = x[:, :, 2 * first : 2 * end + 1]
            out[:, :, first:end] = downsample.conv(F.pad(strip, (0, 1, 0, int(end == height))))
        return out

    def activated(self, norm: Any, x: Tensor) -> Rows:
        """A function of (first, end) that returns SiLU(norm(x)) for these rows."""
        normed = self.normed(norm, x)
        return lambda first, end: F.silu(normed(first, end), inplace=True)

    def normed(self, norm: Any, x: Tensor) -> Rows:
        """A function of (first, end) that returns norm(x) [B,C,end−first,W] with the statistics of all of x."""
        factor, offset = self.affine(norm.norm_layer if isinstance(norm, SpatialNorm) else norm, x)

        def normed(first: int, end: int) -> Tensor:
            return torch.addcmul(offset, x[:, :, first:end].to(offset.dtype), factor).to(x.dtype)

        if self.quantised is None:
            return normed
        scale, shift = norm.conv_y(self.quantised), norm.conv_b(self.quantised)
        side = x.shape[2] // self.quantised.shape[2]

        def modulated(first: int, end: int) -> Tensor:
            result = normed(first, end)
            scales, shifts = (_resized_rows(part, side, first, end) for part in (scale, shift))
            return torch.addcmul(shifts, result, scales, out=result)

        return modulated

    def affine(self, norm: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """Factor and offset [B,C,1,1] in float32 with which GroupNorm(x) is x · factor + offset.

        A layer that stores its weights elsewhere returns them from its method `cast_affine`.
        """
        mean, variance = self.group_statistics(x, norm.num_groups)
        weight, bias = norm.cast_affine(x) if hasattr(norm, "cast_affine") else (norm.weight, norm.bias)
        size = x.shape[1] // norm.num_groups
        mean, variance = mean.repeat_interleave(size, 1), variance.repeat_interleave(size, 1)
        factor = (variance + norm.eps).rsqrt() * weight.float()
        offset = bias.float() - mean * factor
        return factor[..., None, None], offset[..., None, None]

    def group_statistics(self, x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
        """Mean and variance [B,G] of the channel groups in float32, combined strip by strip (Chan et al. 1979)."""
        count, mean, squares = 0, x.new_zeros(1, dtype=torch.float32), x.new_zeros(1, dtype=torch.float32)
        for first, end in self.spans(x.shape[2]):
            part = x[:, :, first:end].float().unflatten(1, (groups, -1))
            variance, part_mean = torch.var_mean(part, dim=(2, 3, 4), correction=0)
            size = part[0, 0].numel()
            total, shift = count + size, part_mean - mean
            mean = mean + shift * (size / total)
            squares = squares + variance * size + shift.square() * (count * size / total)
            count = total
        return mean, squares / count

    def spans(self, height: int, rows: int | None = None) -> Iterator[tuple[int, int]]:
        """(first, end) of each strip of `height` rows."""
        step = rows or self.rows
        return ((first, min(height, first + step)) for first in range(0, height, step))


def _resized_rows(latent: Tensor, side: int, first: int, end: int) -> Tensor:
    """Rows `first` to `end` of a latent that is enlarged `side` times by nearest neighbour."""
    above = first // side
    resized = F.interpolate(latent[:, :, above : (end - 1) // side + 1], scale_factor=float(side), mode="nearest")
    return resized[:, :, first - above * side : end - above * side]


def _positions(x: Tensor) -> Tensor:
    """[B,C,H,W] as [B,1,H·W,C], for attention."""
    return x.flatten(2).transpose(1, 2).unsqueeze(1).contiguous()


def _empty(layer: nn.Conv2d, x: Tensor, height: int, width: int | None = None) -> Tensor:
    return x.new_empty(x.shape[0], layer.out_channels, height, x.shape[3] if width is None else width)
