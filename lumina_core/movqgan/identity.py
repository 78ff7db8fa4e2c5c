"""Whether a MoVQGAN is the one that a transformer draws for."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..checkpoint.codec_identity import CodecIdentity
from ..checkpoint.config import PUBLISHED_CODEBOOK_SIZE, PUBLISHED_IMAGE_TOKEN_OFFSET, TransformerConfig
from ..errors import InputError
from ..pictures.sizes import CODE_PIXELS
from .config import PUBLISHED_MOVQGAN, MoVQGANConfig

# The published MoVQGANs of 67M and 102M have this many channels, and as many codes as that of 270M.
SMALLEST_PUBLISHED = 128


def check_codec(config: TransformerConfig, codec: MoVQGANConfig, tensors: Mapping[str, Tensor], source: str) -> None:
    """Raises InputError when a MoVQGAN is not the one that the transformer of `config` draws for.

    `tensors` are its own, by name; `source` names it. A wrong codec decodes any codes to noise, without
    an error. A config that names its codec (`image_codec`) takes no other. One that does not takes every codec with its
    number of codes, but for the published ones: with the published codes only that of 270M.
    """
    if (codec.codebook_size, codec.downscale) != (config.codebook_size, CODE_PIXELS):
        raise InputError(
            f"{source} has {codec.codebook_size} codes of {codec.downscale} pixels; expected {config.codebook_size} of "
            f"{CODE_PIXELS}, as the checkpoint draws: choose the MoVQGAN of this checkpoint"
        )
    found = CodecIdentity.of(codec.channels, codec.multipliers, tensors)
    trained = config.codec
    if trained is not None and not trained.is_same(found):
        differ = f"{found}, expected {trained}" if str(found) != str(trained) else "the same sizes and other values"
        raise InputError(
            f"{source} is not the MoVQGAN that the checkpoint was trained with: it has {differ}; choose that of this "
            "checkpoint"
        )
    if trained is None and _is_other_published(config, codec):
        raise InputError(
            f"{source} has {found} and {codec.res_blocks} blocks a level; expected the MoVQGAN of 270M parameters, "
            f"with {PUBLISHED_MOVQGAN.channels} channels, that the published checkpoints draw for: movqgan_270M.ckpt"
        )


def _is_other_published(config: TransformerConfig, codec: MoVQGANConfig) -> bool:
    drawn = config.image_token_offset, config.codebook_size
    if drawn != (PUBLISHED_IMAGE_TOKEN_OFFSET, PUBLISHED_CODEBOOK_SIZE) or codec.channels < SMALLEST_PUBLISHED:
        return False
    return (codec.channels, codec.multipliers) != (PUBLISHED_MOVQGAN.channels, PUBLISHED_MOVQGAN.multipliers)
