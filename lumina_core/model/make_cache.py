"""A cache for a transformer, with the kernel that attends over it where the device has one."""

import logging

import torch
from torch import Tensor

from ..kernels import Choice, Stored, choose
from ..kernels.samples import attention_sample
from .kv_cache import KVCache
from .kv_store import INT8
from .transformer import Transformer

logger = logging.getLogger(__name__)

TRIAL_SLOTS = 96


def new_cache(transformer: Transformer, rows: int, length: int, kv_cache: str, width: int) -> KVCache:
    """An empty cache on the transformer's device for windows of `width` tokens."""
    attend = None
    if kv_cache == INT8 and transformer.dtype == torch.bfloat16:
        choice = _choose(transformer, width)
        logger.info("attention over the 8-bit cache: %s", choice)
        attend = choice.function if choice.is_kernel else None
    return KVCache(
        transformer.config,
        rows,
        length,
        dtype=transformer.dtype,
        device=transformer.device,
        kv_cache=kv_cache,
        window_attention=attend,
    )


def _choose(transformer: Transformer, width: int) -> Choice:
    config, device = transformer.config, transformer.device

    def sample() -> tuple[Tensor, Stored, Stored, Tensor, int]:
        return attention_sample(
            device,
            transformer.dtype,
            int8=True,
            filled=(width, width + TRIAL_SLOTS),
            width=width,
            heads=(config.num_attention_heads, config.num_key_value_heads),
            head_dim=config.head_dim,
            length=width + 2 * TRIAL_SLOTS,
        )

    return choose("window_attention", device, sample)
