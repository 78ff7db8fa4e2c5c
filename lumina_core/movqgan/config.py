"""The architecture of a MoVQGAN, inferred from the names and shapes of its tensors."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import CheckpointError

NORM_GROUPS = 32
# Feature maps of `channels` at full resolution that are live at once in the decoder's last level (measured: 10 to 11).
LIVE_FEATURE_MAPS = 11
# Output rows per strip, where a picture does not fit whole.
STRIP_ROWS = 32
# Float32 copies of a strip's input, live at once: normalised, modulated, convolution workspace (estimated).
LIVE_STRIPS = 5
Shape = tuple[int, ...]


@dataclass(frozen=True)
class MoVQGANConfig:
    """Sizes of a MoVQGAN. Level 0 is at full resolution.

    In `attention_levels`, self-attention follows each residual block (the published configs list them by resolution, as
    `attn_resolutions`).
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
        """Channels of each level."""
        return tuple(self.channels * m for m in self.multipliers)

    def picture_bytes(self, grid_h: int, grid_w: int, item_bytes: int, strip_rows: int | None = None) -> int:
        """Estimated bytes to encode or decode one picture, without the weights. A value has `item_bytes`.

        In strips these are the input of the last level (as wide as the level before it), its output and the copies of
        one strip.
        """
        height, width = grid_h * self.downscale, grid_w * self.downscale
        if strip_rows is None:
            return LIVE_FEATURE_MAPS * height * width * self.channels * item_bytes
        width_in, width_out = max(self.widths[:2]), self.widths[0]
        strip = min(height, strip_rows + 2) * width * width_in
        return height * width * (width_in + width_out) * item_bytes + LIVE_STRIPS * strip * 4

    def multiplications(self, grid_h: int, grid_w: int) -> int:
        """Multiplications of the 3×3 convolutions that decode one picture, about; encoding takes about as many."""
        pixels = grid_h * grid_w * self.downscale**2
        by_level = (pixels // 4**level * width**2 for level, width in enumerate(self.widths))
        return 9 * 2 * (self.res_blocks + 1) * sum(by_level)


# The MoVQGAN of 270M parameters that the published model draws for.
PUBLISHED_MOVQGAN = MoVQGANConfig(256, (1, 2, 2, 4), 2, (3,), latent_channels=4, code_channels=4, codebook_size=16_384)


def infer_config(shapes: Mapping[str, Shape], source: str = "the file") -> MoVQGANConfig:
    """Config of the MoVQGAN whose tensors have these names and shapes; `source` names the file in errors.

    Raises CheckpointError when a tensor that defines the architecture is missing or has an impossible shape.
    """
    read = _Reader(shapes, source)
    channels, picture_channels = read.shape("encoder.conv_in.weight", 4)[:2]
    if picture_channels != 3:
        raise CheckpointError(
            f"{source} is a MoVQGAN of pictures with {picture_channels} channels; expected 3, those of colour pictures"
        )
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
        """The number of distinct indices that `pattern` matches. `check_tensors` reports gaps as missing tensors."""
        found = {match.group(1) for match in map(re.compile(pattern).match, self.shapes) if match}
        if not found:
            raise CheckpointError(
                f"{self.source} is not a MoVQGAN: `encoder.down.0.block.*` is missing; "
                "expected the tensors of SBER-MoVQGAN"
            )
        return len(found)

    def multipliers(self, channels: int, levels: range) -> tuple[int, ...]:
        """The widths of the levels as multiples of `channels`, which is itself a multiple of NORM_GROUPS."""
        widths = [self.shape(f"encoder.down.{level}.block.0.conv1.weight", 4)[0] for level in levels]
        if channels % NORM_GROUPS or any(width % channels for width in widths):
            raise CheckpointError(
                f"{self.source} has {channels} channels and level widths {widths}; expected channels in multiples of "
                f"{NORM_GROUPS} and widths in multiples of the channels: the file is damaged or of another model"
            )
        return tuple(width // channels for width in widths)
