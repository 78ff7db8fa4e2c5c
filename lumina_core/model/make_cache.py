"""A cache for a transformer, with the kernels that attend over it and fill it where the device has them."""

import logging
from functools import partial
from typing import Any

import torch

from ..config import TransformerConfig
from ..kernels import Choice, Remembered, choose
from ..kernels.samples import add_sample, attention_sample, gate_sample, heads_sample
from .kv_cache import BlockKernels, KVCache
from .transformer import Transformer

logger = logging.getLogger(__name__)

# More than a program of the kernel works through, so that several are joined; and for each size of its tiles a width.
TRIAL_SLOTS, TRIAL_WIDTHS = 1100, (1, 16, 32, 64)
KERNEL_FORMAT = torch.bfloat16


def new_cache(transformer: Transformer, rows: int, length: int, kv_cache: str, width: int) -> KVCache:
    """An empty cache on the transformer's device for windows of `width` tokens."""
    config, dtype, device = transformer.config, transformer.dtype, transformer.device
    attention = _choose_attention(device, config, kv_cache, width) if dtype == KERNEL_FORMAT else None
    attends = attention is not None and attention.is_kernel
    return KVCache(
        config,
        rows,
        length,
        dtype=dtype,
        device=device,
        kv_cache=kv_cache,
        window_attention=attention.function if attention is not None and attends else None,
        block_kernels=_choose_block_kernels(device, config, kv_cache) if attends and not config.swin_norm else None,
    )


@Remembered
def _choose_attention(device: torch.device, config: TransformerConfig, kv_cache: str, width: int) -> Choice:
    """The attention of a window, which may become narrower."""

    def sample(tokens: int) -> tuple[Any, ...]:
        return attention_sample(
            device,
            KERNEL_FORMAT,
            kv_cache=kv_cache,
            filled=(tokens, tokens + TRIAL_SLOTS),
            width=tokens,
            heads=(config.num_attention_heads, config.num_key_value_heads),
            head_dim=config.head_dim,
            length=tokens + 2 * TRIAL_SLOTS,
            spoilt=False,
        )

    widths = [*(tokens for tokens in TRIAL_WIDTHS if tokens < width), width]
    choice = choose("window_attention", device, *(partial(sample, tokens) for tokens in widths))
    logger.info("attention of %d tokens over the cache (%s): %s", width, kv_cache, choice)
    return choice


def _choose_block_kernels(device: torch.device, config: TransformerConfig, kv_cache: str) -> BlockKernels | None:
    """The kernels for the rest of a block, where all of them work."""
    names = "place_heads", "silu_gate", "add_norm"
    choices = [_choose_block_kernel(name, device, config, kv_cache) for name in names]
    return BlockKernels(*(choice.function for choice in choices)) if all(c.is_kernel for c in choices) else None


@Remembered
def _choose_block_kernel(name: str, device: torch.device, config: TransformerConfig, kv_cache: str) -> Choice:
    heads = config.num_attention_heads, config.num_key_value_heads
    sample = {
        "place_heads": partial(
            heads_sample, kv_cache=kv_cache, heads=heads, head_dim=config.head_dim, norms=config.model_parallel_size
        ),
        "silu_gate": partial(gate_sample, width=config.intermediate_size),
        "add_norm": partial(add_sample, size=config.hidden_size),
    }[name]
    choice = choose(name, device, partial(sample, device, KERNEL_FORMAT))
    logger.info("%s of every block: %s", name, choice)
    return choice
