"""A cache for a transformer, with the kernels that attend over it and fill it where the device has them."""

import logging
from functools import partial

import torch

from ..checkpoint.config import TransformerConfig
from ..kernels.samples import add_sample, attention_sample, gate_sample, heads_sample
from ..kernels.select import Choice, Remembered, Sample, choose
from ..kernels.tiles import CHUNK, padded_chunks
from .kv_cache import BlockKernels, KVCache
from .transformer import Transformer

logger = logging.getLogger(__name__)

# More than a program of the kernel works through, so that several are joined; and for each size of its tiles a width.
TEST_SLOTS, TEST_WIDTHS = 1100, (1, 16, 32, 64)
KERNEL_FORMAT = torch.bfloat16


def new_cache(transformer: Transformer, rows: int, length: int, kv_cache: str, width: int) -> KVCache:
    """An empty cache on the transformer's device for windows of `width` tokens."""
    config, dtype, device = transformer.config, transformer.dtype, transformer.device
    attention, reason = None, f"the kernels are for {KERNEL_FORMAT}, not {dtype}"
    if dtype == KERNEL_FORMAT:
        choice = _choose_attention(device, config, kv_cache, width, padded_chunks(length))
        attention, reason = choice.function if choice.is_kernel else None, choice.reason
    fuses = attention is not None and not config.swin_norm
    return KVCache(
        config,
        rows,
        length,
        dtype=dtype,
        device=device,
        kv_cache=kv_cache,
        window_attention=attention,
        attention_kernel=f"{'torch' if attention is None else 'triton'} ({reason})",
        block_kernels=_choose_block_kernels(transformer, kv_cache) if fuses else None,
    )


def attention_samples(
    device: torch.device, config: TransformerConfig, kv_cache: str, width: int, chunks: int
) -> list[Sample]:
    """Inputs for the self-tests of a window's attention: each width of its tiles, and a cache of so many chunks."""

    def sample(tokens: int, longest: int, length: int) -> Sample:
        return partial(
            attention_sample,
            device,
            KERNEL_FORMAT,
            kv_cache=kv_cache,
            filled=(tokens, longest),
            width=tokens,
            heads=(config.num_attention_heads, config.num_key_value_heads),
            head_dim=config.head_dim,
            length=length,
            spoilt=False,
        )

    widths = [*(tokens for tokens in TEST_WIDTHS if tokens < width), width]
    short = [sample(tokens, tokens + TEST_SLOTS, tokens + 2 * TEST_SLOTS) for tokens in widths]
    # The fewest slots for which as many chunks are joined.
    longest = chunks // 2 * CHUNK + min(widths)
    return [*short, sample(min(widths), longest, longest)]


def block_samples(
    name: str, device: torch.device, config: TransformerConfig, kv_cache: str, splits: tuple[int, ...]
) -> list[Sample]:
    """Inputs for the self-tests of a kernel for the rest of a block: partial sums in each of these splits."""
    heads = config.num_attention_heads, config.num_key_value_heads
    sample = {
        "place_heads": partial(
            heads_sample, kv_cache=kv_cache, heads=heads, head_dim=config.head_dim, norms=config.model_parallel_size
        ),
        "silu_gate": partial(gate_sample, width=config.intermediate_size),
        "add_norm": partial(add_sample, size=config.hidden_size),
    }[name]
    return [partial(sample, device, KERNEL_FORMAT, splits=count) for count in splits]


@Remembered
def _choose_attention(
    device: torch.device, config: TransformerConfig, kv_cache: str, width: int, chunks: int
) -> Choice:
    """The attention of a window, which may become narrower."""
    choice = choose("window_attention", device, *attention_samples(device, config, kv_cache, width, chunks))
    logger.info("attention of %d tokens over the cache (%s): %s", width, kv_cache, choice)
    return choice


def _choose_block_kernels(transformer: Transformer, kv_cache: str) -> BlockKernels | None:
    """The kernels for the rest of a block, where all of them work."""
    qkv, out, gate_up, down = (
        {getattr(linear, "splits", 1) for linear in linears}
        for linears in zip(*(block.linears for block in transformer.blocks), strict=True)
    )
    splits_of = {"place_heads": qkv, "silu_gate": gate_up, "add_norm": out | down}
    choices = [
        _choose_block_kernel(name, transformer.device, transformer.config, kv_cache, tuple(sorted(splits)))
        for name, splits in splits_of.items()
    ]
    return BlockKernels(*(choice.function for choice in choices)) if all(c.is_kernel for c in choices) else None


@Remembered
def _choose_block_kernel(
    name: str, device: torch.device, config: TransformerConfig, kv_cache: str, splits: tuple[int, ...]
) -> Choice:
    choice = choose(name, device, *block_samples(name, device, config, kv_cache, splits))
    logger.info("%s of every block: %s", name, choice)
    return choice
