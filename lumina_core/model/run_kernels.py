"""The kernels of a run, selected once before it starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.config import TransformerConfig
from ..kernels import reference
from ..kernels.samples import (
    add_rms_norm_sample,
    attention_sample,
    draw_sample,
    qkv_sample,
    silu_gate_sample,
    topk_sample,
)
from ..kernels.select import Choice, choose
from ..kernels.self_test import Sample
from ..kernels.tiles import CHUNK, padded_chunks

KERNEL_DTYPE = torch.bfloat16
# More slots than a chunk of the attention, so that chunks are combined; and a width for each of its tiles.
TEST_SLOTS, TEST_WIDTHS = 1100, (1, 16, 32, 64)
REFERENCE_ATTENTION = Choice(reference.window_attention, False, "not selected")
Splits = tuple[int, ...]


@dataclass(frozen=True)
class BlockKernels:
    """Kernels for a block's operations between matmuls and attention, with the signatures of their references."""

    qkv_norm_rope_store: Callable[..., Any]
    silu_gate: Callable[..., Tensor]
    add_rms_norm: Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class RunKernels:
    """What a run computes with, each with the signature of its reference; the references where nothing is selected.

    `attention` is the window attention over the cache, with the reason for reports. Without `blocks` a block runs
    operation by operation.
    """

    attention: Choice = REFERENCE_ATTENTION
    blocks: BlockKernels | None = None
    topk_cut: Callable[..., Tensor] = reference.topk_cut
    gumbel_draw: Callable[..., Tensor] = reference.gumbel_draw


def choose_run_kernels(
    config: TransformerConfig,
    dtype: torch.dtype,
    device: torch.device,
    splits: Mapping[str, Splits],
    kv_cache: str,
    width: int,
    length: int,
) -> RunKernels:
    """The kernels that work on the device, for windows of at most `width` tokens over a cache of `length` slots.

    `splits` are the numbers of partial sums that each linear layer of a block returns, by the layer's name.
    """
    samples = run_samples(config, splits, kv_cache, width, length)
    attention = replace(REFERENCE_ATTENTION, reason=f"the kernels are for {KERNEL_DTYPE}, not {dtype}")
    if dtype == KERNEL_DTYPE:
        attention = choose("window_attention", device, *samples["window_attention"])
    blocks = None
    if attention.is_kernel and not config.swin_norm:
        names = ("qkv_norm_rope_store", "silu_gate", "add_rms_norm")
        choices = [choose(name, device, *samples[name]) for name in names]
        if all(choice.is_kernel for choice in choices):
            blocks = BlockKernels(*(choice.function for choice in choices))
    draw, cut = (choose(name, device, *samples[name]).function for name in ("gumbel_draw", "topk_cut"))
    return RunKernels(attention, blocks, cut, draw)


def run_samples(
    config: TransformerConfig, splits: Mapping[str, Splits], kv_cache: str, width: int, length: int
) -> dict[str, tuple[Any, ...]]:
    """By kernel, the function that returns a device's samples for the self-tests, and its other arguments."""
    after_matmul = tuple(sorted({*splits["o_proj"], *splits["down_proj"]}))
    return {
        "window_attention": (attention_samples, config, kv_cache, width, padded_chunks(length)),
        "qkv_norm_rope_store": (qkv_samples, config, kv_cache, splits["qkv_proj"]),
        "silu_gate": (silu_gate_samples, config.intermediate_size, splits["gate_up_proj"]),
        "add_rms_norm": (add_rms_norm_samples, config.hidden_size, after_matmul),
        "topk_cut": (topk_samples, config.codebook_size),
        "gumbel_draw": (draw_samples, config.codebook_size),
    }


def attention_samples(
    device: torch.device, config: TransformerConfig, kv_cache: str, width: int, chunks: int
) -> list[Sample]:
    """Each width of the tiles for windows of at most `width` tokens, and a cache of so many chunks."""

    def sample(tokens: int, longest: int, length: int) -> Sample:
        return partial(
            attention_sample,
            device,
            KERNEL_DTYPE,
            kv_cache=kv_cache,
            filled=(tokens, longest),
            width=tokens,
            heads=(config.num_attention_heads, config.num_key_value_heads),
            head_dim=config.head_dim,
            length=length,
            corrupt=False,
        )

    widths = [*(tokens for tokens in TEST_WIDTHS if tokens < width), width]
    short = [sample(tokens, tokens + TEST_SLOTS, tokens + 2 * TEST_SLOTS) for tokens in widths]
    # The fewest slots for which as many chunks are combined.
    longest = chunks // 2 * CHUNK + min(widths)
    return [*short, sample(min(widths), longest, longest)]


def qkv_samples(device: torch.device, config: TransformerConfig, kv_cache: str, splits: Splits) -> list[Sample]:
    heads, norms = (config.num_attention_heads, config.num_key_value_heads), config.model_parallel_size
    sample = partial(
        qkv_sample, device, KERNEL_DTYPE, kv_cache=kv_cache, heads=heads, head_dim=config.head_dim, norms=norms
    )
    return [partial(sample, splits=count) for count in splits]


def silu_gate_samples(device: torch.device, width: int, splits: Splits) -> list[Sample]:
    return [partial(silu_gate_sample, device, KERNEL_DTYPE, width=width, splits=count) for count in splits]


def add_rms_norm_samples(device: torch.device, size: int, splits: Splits) -> list[Sample]:
    return [partial(add_rms_norm_sample, device, KERNEL_DTYPE, size=size, splits=count) for count in splits]


def topk_samples(device: torch.device, count: int) -> list[Sample]:
    return [partial(topk_sample, device, count)]


def draw_samples(device: torch.device, count: int) -> list[Sample]:
    """With a top-k cut, and without."""
    return [partial(draw_sample, device, count, top_k) for top_k in (50, count)]
