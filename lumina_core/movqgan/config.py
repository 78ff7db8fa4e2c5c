"""The architecture of a MoVQGAN, read from the names and shapes of its tensors."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import CheckpointError

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


def infer_config(shapes: Mapping[str, Shape]) -> MoVQGANConfig:
    """Config of the MoVQGAN whose tensors have these names and shapes.

    Raises CheckpointError when a tensor that tells the architecture is absent or has an impossible shape.
    """
    first = _shape(shapes, "encoder.conv_in.weight", 4)
    codebook = _shape(shapes, "quantize.embedding.weight", 2)
    levels = _count(shapes, r"encoder\.down\.(\d+)\.block\.")
    res_blocks = _count(shapes, r"encoder\.down\.0\.block\.(\d+)\.")
    if not levels or not res_blocks:
        raise CheckpointError("not a MoVQGAN: it has no `encoder.down.*` blocks; expected the tensors of SBER-MoVQGAN")
    channels = first[0]
    widths = [_shape(shapes, f"encoder.down.{level}.block.0.conv1.weight", 4)[0] for level in range(levels)]
    uneven = [width for width in widths if width % channels or width % 32]
    if uneven:
        raise CheckpointError(
            f"MoVQGAN level widths {widths} do not fit its first {channels} channels; "
            "expected multiples of these and of 32: the file is damaged or of another model"
        )
    return MoVQGANConfig(
        channels=channels,
        multipliers=tuple(width // channels for width in widths),
        res_blocks=res_blocks,
        attention_levels=tuple(i for i in range(levels) if f"encoder.down.{i}.attn.0.q.weight" in shapes),
        latent_channels=_shape(shapes, "encoder.conv_out.weight", 4)[0],
        code_channels=codebook[1],
        codebook_size=codebook[0],
        picture_channels=first[1],
    )


def _shape(shapes: Mapping[str, Shape], name: str, dims: int) -> Shape:
    shape = shapes.get(name)
    if shape is None:
        raise CheckpointError(f"not a MoVQGAN: tensor `{name}` is missing; expected the tensors of SBER-MoVQGAN")
    if len(shape) != dims:
        raise CheckpointError(f"MoVQGAN tensor `{name}` has shape {tuple(shape)}; expected {dims} dimensions")
    return tuple(shape)


def _count(shapes: Mapping[str, Shape], pattern: str) -> int:
    found = [int(match.group(1)) for match in map(re.compile(pattern).match, shapes) if match]
    return max(found) + 1 if found else 0
