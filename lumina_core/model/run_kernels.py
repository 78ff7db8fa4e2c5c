"""The kernels of a run, selected once before it starts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.config import TransformerConfig
from ..kernels import reference, window_reference
from ..kernels.draft_tree import NO_TREE, DraftTree
from ..kernels.linear import state_dtype
from ..kernels.samples import add_rms_norm_sample, attention_sample, qkv_sample, silu_gate_sample
from ..kernels.select import Choice, choose
from ..kernels.self_test import Sample
from ..kernels.tiles import CHUNK, padded_chunks
from ..kernels.window_samples import (
    accept_window_sample,
    draw_window_sample,
    embed_window_sample,
    keep_branch_sample,
    place_drafts_sample,
)
from ..kernels.window_state import Drawn, Sampling

KERNEL_DTYPE = torch.bfloat16
# More slots than a chunk of the attention, so that chunks are combined; and a width for each of its tiles.
TEST_SLOTS, TEST_WIDTHS = 1100, (1, 16, 32, 64)
TEST_WINDOW = 5
REFERENCE_ATTENTION = Choice(reference.window_attention, False, "not selected")
CHUNKED_ATTENTION = replace(REFERENCE_ATTENTION, reason="in chunks, as on every CPU")
Splits = tuple[int, ...]


@dataclass(frozen=True)
class BlockKernels:
    """Kernels for what comes before a block's matmuls and attention, with the signatures of their references."""

    embed_window: Callable[..., tuple[Tensor, Tensor, Tensor]]
    qkv_norm_rope_store: Callable[..., Any]
    silu_gate: Callable[..., Tensor]
    add_rms_norm: Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class RunKernels:
    """What a run computes with, each with the signature of its reference; the references where nothing is selected.

    `attention` is the window attention over the cache, with the reason for reports. Without `blocks` a block runs
    operation by operation. `allocates`: a step allocates memory, as references do. `width` is that of the widest
    forward, with the nodes of its tree. `in_chunks`: the attention is `chunked_attention`, for a CPU.
    """

    attention: Choice = REFERENCE_ATTENTION
    blocks: BlockKernels | None = None
    draw_window: Callable[..., Drawn] = window_reference.draw_window
    accept_window: Callable[..., object] = window_reference.accept_window
    place_drafts: Callable[..., object] = window_reference.place_drafts
    keep_branch: Callable[..., object] = window_reference.keep_branch
    allocates: bool = True
    width: int = 1
    in_chunks: bool = False


REFERENCE_KERNELS = RunKernels()


def choose_run_kernels(
    config: TransformerConfig,
    dtype: torch.dtype,
    device: torch.device,
    splits: Mapping[str, Splits],
    sampling: Sampling,
    kv_cache: str,
    width: int,
    length: int,
) -> RunKernels:
    """The kernels that work on the device, for windows of at most `width` tokens over a cache of `length` slots.

    `splits` are the numbers of partial sums that each linear layer of a block returns, by the layer's name.
    """
    tree = DraftTree.of(sampling.tree, width)
    samples = {
        **run_samples(config, splits, kv_cache, width, length, tree),
        **window_samples(sampling, state_dtype(dtype), width),
        **branch_samples(config, sampling.guided, kv_cache, tree),
    }
    attention = replace(REFERENCE_ATTENTION, reason=f"the kernels are for {KERNEL_DTYPE}, not {dtype}")
    if dtype == KERNEL_DTYPE:
        attention = choose("window_attention", device, samples["window_attention"])
    if device.type == "cpu" and not attention.is_kernel:
        attention = CHUNKED_ATTENTION
    blocks = None
    if attention.is_kernel and not config.swin_norm:
        names = ("embed_window", "qkv_norm_rope_store", "silu_gate", "add_rms_norm")
        choices = [choose(name, device, samples[name]) for name in names]
        if all(choice.is_kernel for choice in choices):
            blocks = BlockKernels(*(choice.function for choice in choices))
    names = (*("draw_window", "accept_window", "place_drafts"), *(("keep_branch",) if dtype == KERNEL_DTYPE else ()))
    drawing = {name: choose(name, device, samples[name]) for name in names if name in samples}
    allocates = blocks is None or not all(choice.is_kernel for choice in drawing.values())
    functions = {name: choice.function for name, choice in drawing.items()}
    in_chunks = attention is CHUNKED_ATTENTION
    return RunKernels(attention, blocks, **functions, allocates=allocates, width=width + len(tree), in_chunks=in_chunks)


def run_samples(
    config: TransformerConfig,
    splits: Mapping[str, Splits],
    kv_cache: str,
    width: int,
    length: int,
    tree: DraftTree = NO_TREE,
) -> dict[str, tuple[Sample, ...]]:
    """The samples for the self-tests of the kernels of a block."""
    heads = config.num_attention_heads, config.num_key_value_heads
    qkv = {"kv_cache": kv_cache, "heads": heads, "head_dim": config.head_dim, "norms": config.model_parallel_size}
    embed = {"slots": max(TEST_WINDOW, tree.reach), "tree": len(tree), "size": config.hidden_size}
    sums = tuple(sorted({*splits["o_proj"], *splits["down_proj"]}))
    return {
        "window_attention": attention_samples(config, kv_cache, width, padded_chunks(length), tree),
        "qkv_norm_rope_store": _by_splits(qkv_sample, splits["qkv_proj"], nodes=min(len(tree), 2), **qkv),
        "silu_gate": _by_splits(silu_gate_sample, splits["gate_up_proj"], width=config.intermediate_size),
        "add_rms_norm": _by_splits(add_rms_norm_sample, sums, size=config.hidden_size),
        "embed_window": (Sample.of(embed_window_sample, dtype=KERNEL_DTYPE, **embed),),
    }


def branch_samples(
    config: TransformerConfig, guided: bool, kv_cache: str, tree: DraftTree
) -> dict[str, tuple[Sample, ...]]:
    """The sample for the self-test of the kernel that keeps a branch of a tree; none without one."""
    if not tree.lanes:
        return {}
    sampling = Sampling(1, cfg_scale=3.0 if guided else 1.0, tree=len(tree))
    sizes = {"kv_cache": kv_cache, "heads": (config.num_key_value_heads, config.head_dim), "layers": 2}
    return {
        "keep_branch": (
            Sample.of(keep_branch_sample, dtype=KERNEL_DTYPE, sampling=sampling, window=tree.reach, **sizes),
        )
    }


def window_samples(sampling: Sampling, dtype: torch.dtype, width: int) -> dict[str, tuple[Sample, ...]]:
    """The samples for the self-tests of the kernels that move a window of at most `width` tokens."""
    # The values that a kernel is not compiled for are those of every test, so that a run seldom needs another.
    top_k = sampling.codes if sampling.top_k >= sampling.codes else max(1, sampling.codes // 4)
    cfg_scale = 3.0 if sampling.guided else 1.0
    tested = replace(sampling, cfg_scale=cfg_scale, temperature=0.7, top_k=top_k)
    tested = replace(tested, top_p=0.9 if sampling.top_p < 1 else 1.0, min_p=0.1 if sampling.min_p > 0 else 0.0)
    # Wide enough for the tree of the run, for which the kernels are compiled.
    few = max(min(width, TEST_WINDOW), DraftTree.of(sampling.tree, width).reach)
    samples: dict[str, tuple[Sample, ...]] = {
        "draw_window": (Sample.of(draw_window_sample, dtype=dtype, sampling=tested, window=few),),
        "accept_window": (Sample.of(accept_window_sample, sampling=tested, window=width),),
    }
    if few > 1 and (sampling.speculative or sampling.guesses):
        samples["place_drafts"] = (Sample.of(place_drafts_sample, sampling=tested, window=few),)
    return samples


def attention_samples(
    config: TransformerConfig, kv_cache: str, width: int, chunks: int, tree: DraftTree = NO_TREE
) -> tuple[Sample, ...]:
    """One sample for each tile width of windows of at most `width` tokens, and one with `chunks` chunks of cache.

    With a tree, one of the widest window and one with `chunks` chunks: every width has the tile of the widest.
    """
    heads = config.num_attention_heads, config.num_key_value_heads
    fixed = {"dtype": KERNEL_DTYPE, "kv_cache": kv_cache, "heads": heads, "head_dim": config.head_dim, "corrupt": False}

    def sample(tokens: int, longest: int, length: int) -> Sample:
        sizes = {"width": tokens, "length": length, "tree": len(tree)}
        return Sample.of(attention_sample, filled=(tokens, longest), **sizes, **fixed)

    if tree.lanes:
        longest = chunks // 2 * CHUNK + width
        several, nodes = width + TEST_SLOTS, len(tree)
        return sample(width, several, several + width + nodes), sample(width, longest, longest + nodes)
    widths = [*(tokens for tokens in TEST_WIDTHS if tokens < width), width]
    short = [sample(tokens, tokens + TEST_SLOTS, tokens + 2 * TEST_SLOTS) for tokens in widths]
    # The fewest slots for which as many chunks are combined.
    longest = chunks // 2 * CHUNK + min(widths)
    return *short, sample(min(widths), longest, longest)


def _by_splits(make: Callable[..., tuple[Any, ...]], splits: Splits, **sizes: Hashable) -> tuple[Sample, ...]:
    return tuple(Sample.of(make, dtype=KERNEL_DTYPE, splits=count, **sizes) for count in splits)
