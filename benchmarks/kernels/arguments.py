"""Arguments of the kernels at a model's shapes: filled where they are to be timed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.decoding.canvas import Canvas
from lumina_core.kernels.draft_tree import DraftTree
from lumina_core.kernels.kv_tensor import KVTensor
from lumina_core.kernels.reference import GROUP_SIZE
from lumina_core.kernels.weight_tiles import TILE_ROWS
from lumina_core.kernels.window_state import GUESS, Drawn, Sampling, WindowState
from lumina_core.quant.schemes import SCHEMES

BF16 = torch.bfloat16
# Codes of a side of 768 pixels.
SIDE = 96
Arguments = tuple[Any, ...]


def matmul_arguments(
    scheme: str,
    shape: tuple[int, int],
    rows: int,
    device: torch.device | str,
    dtype: torch.dtype = BF16,
    tiled: bool = True,
) -> Arguments:
    """Of `int4_matmul` or `int8_matmul`: x [rows,in] and the packed tensors of a weight with (inputs, outputs).

    They are in tiles, as in a model, where the shape is a multiple of a tile.
    """
    in_features, out_features = shape
    specs = SCHEMES[scheme].packed_specs(in_features).values()
    groups, tiled = in_features // GROUP_SIZE, tiled and not (in_features % GROUP_SIZE or out_features % TILE_ROWS)
    tiles = out_features // TILE_ROWS, groups, TILE_ROWS
    sizes = (
        (*tiles, math.prod(spec.columns) // groups) if tiled and spec.columns else (out_features, *spec.columns)
        for spec in specs
    )
    weight = (torch.empty(size, dtype=spec.dtype, device=device) for size, spec in zip(sizes, specs, strict=True))
    return torch.empty(rows, in_features, dtype=dtype, device=device), *weight


def attention_arguments(
    config: TransformerConfig,
    kv_cache: str,
    width: int,
    context: int,
    length: int,
    device: torch.device | str,
    nodes: int = 0,
) -> Arguments:
    """Of `window_attention`: two sequences, whose window begins after `context` tokens, in a cache of this length.

    A draft tree of so many nodes comes after the window.
    """
    heads, kv_heads, head_dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    tree = DraftTree.of(nodes, width)
    query = torch.empty(2, width + len(tree), heads, head_dim, dtype=BF16, device=device)
    keys, values = (KVTensor.empty(kv_cache, (2, length, kv_heads, head_dim), BF16, device) for _ in "kv")
    places = torch.cat((torch.arange(width, device=device), tree.depths(device)))
    input_pos = context + places.expand(2, -1).contiguous()
    of_tree = (width + len(tree), tree, tree.table(device)) if tree.lanes else ()
    return query, keys, values, input_pos, length, *of_tree


def qkv_arguments(
    config: TransformerConfig, kv_cache: str, rows: int, splits: int, device: torch.device | str
) -> Arguments:
    """Of `qkv_norm_rope_store`."""
    heads, kv_heads, head_dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    norms = [torch.empty(config.model_parallel_size, head_dim, dtype=BF16, device=device) for _ in range(4)]
    cos, sin = (torch.empty(rows, head_dim, dtype=BF16, device=device) for _ in range(2))
    keys, values = (KVTensor.empty(kv_cache, (1, rows, kv_heads, head_dim), BF16, device) for _ in "kv")
    sums = sums_argument(rows, (heads + 2 * kv_heads) * head_dim, splits, device)
    return sums, norms[:2], norms[2:], cos, sin, torch.arange(rows, device=device)[None], keys, values


def norm_arguments(size: int, rows: int, splits: int, device: torch.device | str) -> Arguments:
    """Of `add_rms_norm`."""
    x, weight = (torch.empty(*shape, dtype=BF16, device=device) for shape in ((rows, size), (size,)))
    return x, sums_argument(rows, size, splits, device), weight, 1e-5


def sums_argument(rows: int, out_features: int, splits: int, device: torch.device | str) -> Tensor:
    """Partial sums of a matmul."""
    return torch.empty(splits, rows, out_features, dtype=BF16 if splits == 1 else torch.float32, device=device)


def window_argument(sampling: Sampling, width: int, device: torch.device | str) -> WindowState:
    """A window of so many slots in the middle of one picture of 768×768."""
    layout = Canvas(SIDE, SIDE).layout
    state = WindowState.empty(layout, sampling, width, 1, layout.last + 2 * width + 1, device)
    state.pos.fill_(layout.last // 2)
    state.accepted.fill_(1)
    return state


def embed_arguments(hidden: int, sampling: Sampling, width: int, device: torch.device | str) -> Arguments:
    """Of `embed_window`."""
    embedding, end_of_row, weight = (
        torch.empty(*shape, hidden, dtype=BF16, device=device) for shape in ((sampling.codes,), (), ())
    )
    return window_argument(sampling, width, device), width, embedding, end_of_row, weight, 1e-5


def draw_arguments(sampling: Sampling, width: int, device: torch.device | str) -> Arguments:
    """Of `draw_window`."""
    state = window_argument(sampling, width, device)
    shape = len(state.offset), width + len(state.tree), sampling.codes
    return torch.empty(shape, dtype=BF16, device=device), state, width


def accept_arguments(sampling: Sampling, width: int, device: torch.device | str) -> Arguments:
    """Of `accept_window`: no draft is kept, so that calls after one another find a window to move for long."""
    state = window_argument(sampling, width, device)
    shape, dtypes = (1, width + len(state.tree)), (torch.int64, torch.int64, torch.bool, torch.float32)
    drawn = (torch.zeros(shape, dtype=dtype, device=device) for dtype in dtypes)
    return state, Drawn(*drawn, torch.zeros(*shape, state.tree.ranks, dtype=torch.int64, device=device))


def place_arguments(sampling: Sampling, width: int, device: torch.device | str) -> Arguments:
    """Of `place_drafts`; `gumbel` guesses, and a window has two slots at least: else there is nothing to place."""
    guesses = sampling if sampling.speculative else replace(sampling, new_drafts=GUESS)
    return window_argument(guesses, max(2, width), device), max(2, width)


def keep_arguments(
    config: TransformerConfig, kv_cache: str, sampling: Sampling, width: int, device: torch.device | str
) -> Arguments:
    """Of `keep_branch`: the first lane of the tree is accepted, to the first slots of a short cache of all layers.

    A tree has a node at least, and a window two slots.
    """
    state = window_argument(replace(sampling, tree=max(1, sampling.tree)), max(2, width), device)
    lane, rows = state.tree.lanes[0], len(state.offset) * config.num_hidden_layers
    state.branch.copy_(torch.tensor([lane.first, 0, lane.length]))
    shape = rows, lane.length + len(state.tree), config.num_key_value_heads, config.head_dim
    return state, *(KVTensor.empty(kv_cache, shape, BF16, device) for _ in "kv")


def fill(arguments: Arguments) -> Arguments:
    """The arguments with random values in all that is no position, in place: zeros would take less time."""
    for tensor in tensors(arguments):
        if tensor.is_floating_point():
            tensor.normal_(0, 0.02)
        elif tensor.dtype in (torch.int8, torch.uint8):
            tensor.random_(-127 if tensor.dtype == torch.int8 else 0, 128 if tensor.dtype == torch.int8 else 256)
    return arguments


def tensors(arguments: Any) -> Iterator[Tensor]:
    """All tensors in arguments."""
    if isinstance(arguments, Tensor):
        yield arguments
    elif isinstance(arguments, KVTensor):
        yield from arguments.tensors
    elif isinstance(arguments, WindowState):
        yield from tensors([*vars(arguments).values()])
    elif isinstance(arguments, (tuple, list)):
        for each in arguments:
            yield from tensors(each)


def nbytes(arguments: Any) -> int:
    """Bytes of all tensors in arguments."""
    return sum(tensor.nbytes for tensor in tensors(arguments))
