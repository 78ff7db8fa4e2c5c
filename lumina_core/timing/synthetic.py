"""Models with random weights in the published sizes, for planning and timing without a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor

from ..checkpoint.config import TransformerConfig
from ..checkpoint.published import EMBEDDING, published_shapes
from ..model.load import build_transformer
from ..model.transformer import Transformer
from ..movqgan.autoencoder import MoVQGAN
from ..movqgan.config import PUBLISHED_MOVQGAN, MoVQGANConfig
from ..quant.schemes import PackedTensors, quantize
from ..quant.weights import WeightsPlan
from ..tokens.vocabulary import Vocabulary

WEIGHT_STD = 0.02
MAX_UNITS = 128


@dataclass(frozen=True)
class SyntheticModel:
    """The sizes of a transformer and its MoVQGAN."""

    config: TransformerConfig
    movqgan: MoVQGANConfig
    scheme: None = None

    @property
    def vocabulary(self) -> Vocabulary:
        """A vocabulary with arbitrary ids and grid-unit tokens for sides up to MAX_UNITS units."""
        config = self.config
        units = tuple(range(5, 5 + MAX_UNITS + 1))
        return Vocabulary(1, 2, 3, 4, units, config.image_token_offset, config.codebook_size)


_7B = TransformerConfig(
    vocab_size=171_385,
    hidden_size=4096,
    intermediate_size=11_008,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
    head_dim=128,
    max_position_embeddings=10_240,
)
_2B = replace(_7B, hidden_size=2048, intermediate_size=8192, head_dim=64)
_TINY = replace(
    _7B,
    vocab_size=768,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=32,
    image_token_offset=512,
    codebook_size=256,
    trained_sizes=((64, 64),),
)
_MOVQGAN_TINY = MoVQGANConfig(32, (1, 1, 1, 1), 1, (), latent_channels=4, code_channels=4, codebook_size=256)
SYNTHETIC: Mapping[str, SyntheticModel] = MappingProxyType(
    {
        "7b": SyntheticModel(_7B, PUBLISHED_MOVQGAN),
        "2b": SyntheticModel(_2B, PUBLISHED_MOVQGAN),
        "tiny": SyntheticModel(_TINY, _MOVQGAN_TINY),
    }
)


@torch.inference_mode()
def make_transformer(config: TransformerConfig, plan: WeightsPlan, device: torch.device, seed: int = 0) -> Transformer:
    """A transformer with random weights, created and quantised on the device tensor by tensor.

    Its vocabulary is the image codes only, because a device holds no other rows of embedding and head. In host memory
    all ids share one row of zeros.
    """
    config = replace(config, vocab_size=config.codebook_size, image_token_offset=0)
    shapes = published_shapes(config)
    generator = torch.Generator(device).manual_seed(seed)

    def get(name: str) -> Tensor:
        if "norm" in name:
            return torch.zeros(shapes[name]) if name.endswith("bias") else torch.ones(shapes[name])
        std = 1.0 if name == EMBEDDING else WEIGHT_STD
        return torch.randn(shapes[name], generator=generator, device=device, dtype=plan.dtype).mul_(std)

    def get_packed(name: str) -> PackedTensors:
        assert plan.scheme is not None
        return quantize(plan.scheme, get(name), device, name)

    model = build_transformer(config, plan, get, get_packed, device, device)
    model.text_embedding, model.text_head = (torch.ones(1, config.hidden_size).expand(config.vocab_size, -1),) * 2
    return model


@torch.inference_mode()
def make_movqgan(config: MoVQGANConfig, device: torch.device, seed: int = 0) -> MoVQGAN:
    """A MoVQGAN with random weights in float32."""
    generator = torch.Generator(device).manual_seed(seed)
    with torch.device("meta"):
        model = MoVQGAN(config)
    model.to_empty(device=device)
    for parameter in model.parameters():
        parameter.normal_(0, WEIGHT_STD, generator=generator)
    return model.eval().requires_grad_(False)
