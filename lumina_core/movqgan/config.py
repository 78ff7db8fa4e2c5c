"""The architecture of a MoVQGAN, read from the names and shapes of its tensors."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import CheckpointError, InputError

NORM_GROUPS = 32
# At full resolution, `channels` wide, alive at once in the decoder's last level: 10 to 11 were measured on the CPU.
LIVE_FEATURE_MAPS = 11
# Rows of a layer's output that are worked out together, where a picture does not fit whole.
STRIP_ROWS = 32
# Copies of a strip's input in float32 that are alive at once: normed, modulated and what convolving takes (estimated).
LIVE_STRIPS = 5
Shape = tuple[int, ...]


@dataclass(frozen=True)
class MoVQGANConfig:
    """Sizes of one MoVQGAN; level 0 is the one at full resolution.

    `attention_levels` are the levels whose residual blocks are each followed by self-attention (the published configs
    say this by resolution, `attn_resolutions`).
    """

    channels: int
    multipliers: tuple[int, ...]
    res_blocks: int
    attention_levels: tuple[int, ...]
    latent_channels: int
    code_channels: int
    codebook_size: int
    picture_channels: int = 3

    @property
    def downscale(self) -> int:
        """Pixels per code along one side."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every level."""
        return tuple(self.channels * m for m in self.multipliers)

    def picture_bytes(self, grid_h: int, grid_w: int, item_bytes: int, strip_rows: int | None = None) -> int:
        """About what encoding or decoding one picture of codes takes beside the weights, in numbers of `item_bytes`.

        In strips it is what the last level reads, as wide as the level below it, what it makes, and a strip's own.
        """
        height, width = grid_h * self.downscale, grid_w * self.downscale
        if strip_rows is None:
            return LIVE_FEATURE_MAPS * height * width * self.channels * item_bytes
        read, made = max(self.widths[:2]), self.widths[0]
        strip = min(height, strip_rows + 2) * width * read
        return height * width * (read + made) * item_bytes + LIVE_STRIPS * strip * 4

    def check_codes(self, codebook_size: int, code_pixels: int, source: str) -> None:
        """Raises InputError when the codes are not those that a checkpoint draws; `source` names the MoVQGAN."""
        if (self.codebook_size, self.downscale) != (codebook_size, code_pixels):
            raise InputError(
                f"{source} has {self.codebook_size} codes of {self.downscale} pixels, the checkpoint draws "
                f"{codebook_size} of {code_pixels}; name the MoVQGAN that belongs to it with --movqgan"
            )


def infer_config(shapes: Mapping[str, Shape], source: str = "the file") -> MoVQGANConfig:
    """Config of the MoVQGAN whose tensors have these names and shapes; `source` names them in errors.

    Raises CheckpointError when a tensor that tells the architecture is absent or has an impossible shape.
    """
    read = _Reader(shapes, source)
    channels, picture_channels = read.shape("encoder.conv_in.weight", 4)[:2]
    codebook_size, code_channels = read.shape("quantize.embedding.weight", 2)
    levels = range(read.count(r"encoder\.down\.(\d+)\.block\."))
    return MoVQGANConfig(
        channels=channels,
        multipliers=read.multipliers(channels, levels),
        res_blocks=read.count(r"encoder\.down\.0\.block\.(\d+)\."),
        attention_levels=tuple(i for i in levels if f"encoder.down.{i}.attn.0.q.weight" in shapes),
        latent_channels=read.shape("encoder.conv_out.weight", 4)[0],
        code_channels=code_channels,
        codebook_size=codebook_size,
        picture_channels=picture_channels,
    )


@dataclass(frozen=True)
class _Reader:
    shapes: Mapping[str, Shape]
    source: str

    def shape(self, name: str, dims: int) -> Shape:
        shape = self.shapes.get(name)
        if shape is None:
            raise CheckpointError(
                f"{self.source} is not a MoVQGAN: `{name}` is missing; expected the tensors of SBER-MoVQGAN"
            )
        if len(shape) != dims or 0 in shape:
            raise CheckpointError(
                f"{self.source}: `{name}` has shape {list(shape)}; expected {dims} dimensions, none empty: "
                "the file is damaged or of another model"
            )
        return tuple(shape)

    def count(self, pattern: str) -> int:
        """How many different numbers there are; a gap between them shows later, as a missing tensor."""
        found = {match.group(1) for match in map(re.compile(pattern).match, self.shapes) if match}
        if not found:
            raise CheckpointError(
                f"{self.source} is not a MoVQGAN: it has no `encoder.down.0.block.*`; "
                "expected the tensors of SBER-MoVQGAN"
            )
        return len(found)

    def multipliers(self, channels: int, levels: range) -> tuple[int, ...]:
        """The levels' widths in multiples of `channels`, both of them in whole groups of the norms."""
        widths = [self.shape(f"encoder.down.{level}.block.0.conv1.weight", 4)[0] for level in levels]
        if channels % NORM_GROUPS or any(width % channels for width in widths):
            raise CheckpointError(
                f"{self.source} has {channels} channels, level widths {widths}; expected a multiple of {NORM_GROUPS}, "
                "and multiples of that: the file is damaged or of another model"
            )
        return tuple(width // channels for width in widths)
