"""A cache for a transformer, with the kernel that attends over it where the device has one."""

import logging
from functools import lru_cache

import torch
from torch import Tensor

from ..kernels import Choice, Stored, choose
from ..kernels.samples import attention_sample
from .kv_cache import KVCache
from .transformer import Transformer

logger = logging.getLogger(__name__)

# More than a program of the kernel works through, so that several are joined.
TRIAL_SLOTS = 1100
KERNEL_FORMAT = torch.bfloat16


def new_cache(transformer: Transformer, rows: int, length: int, kv_cache: str, width: int) -> KVCache:
    """An empty cache on the transformer's device for windows of `width` tokens."""
    attend = None
    if transformer.dtype == KERNEL_FORMAT:
        config = transformer.config
        heads = (config.num_attention_heads, config.num_key_value_heads)
        choice = _choose(transformer.device, heads, config.head_dim, width, kv_cache)
        if not choice.is_lasting:
            _choose.cache_clear()
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


@lru_cache(maxsize=32)
def _choose(device: torch.device, heads: tuple[int, int], head_dim: int, width: int, kv_cache: str) -> Choice:
    """The attention for these shapes, tried once in the life of the program."""

    def sample() -> tuple[Tensor, Stored, Stored, Tensor, int]:
        return attention_sample(
            device,
            KERNEL_FORMAT,
            kv_cache=kv_cache,
            filled=(width, width + TRIAL_SLOTS),
            width=width,
            heads=heads,
            head_dim=head_dim,
            length=width + 2 * TRIAL_SLOTS,
            spoilt=False,
        )

    choice = choose("window_attention", device, sample)
    logger.info("attention of %d tokens over the cache (%s): %s", width, kv_cache, choice)
    return choice
