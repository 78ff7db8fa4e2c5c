"""Random windows for the self-tests of the kernels that move one: two pictures, at different places."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .kv_tensor import KVTensor
from .noise import picture_keys
from .samples import integers, kv_tensor, normal, seeded
from .window_state import Drawn, Layout, Sampling, WindowState

PICTURES = 2
HEADER, ROW_LENGTH, ROWS = 3, 9, 24
# Of the last accepted tokens: before an end of row, and near the end of the picture.
PLACES = (HEADER + 4 * ROW_LENGTH + 6, HEADER + (ROWS - 1) * ROW_LENGTH + 4)


def window_sample(device: torch.device | str, sampling: Sampling, window: int) -> WindowState:
    """A window of so many slots over two pictures in the middle of a run."""
    layout, generator = Layout(HEADER, ROW_LENGTH, HEADER + ROWS * ROW_LENGTH - 2), seeded(device)
    state = WindowState.empty(layout, sampling, window, PICTURES, layout.last + 2 * window + 1, device)
    state.keys.copy_(picture_keys(range(PICTURES), device))
    state.offset.copy_(integers(generator, 0, 20, state.offset.shape, torch.int64))
    tokens = integers(generator, 0, sampling.codes, state.tokens.shape, torch.int64)
    index = state.slot[: tokens.shape[1]]
    known = layout.is_end_of_row(index) | (index > layout.last)
    state.tokens.copy_(torch.where(known, 0, tokens))
    # A fifth of the codes is given too.
    state.forced.copy_(known | (integers(generator, 0, 5, tokens.shape, torch.int64) == 0))
    state.heads.copy_(integers(generator, 0, sampling.codes, state.heads.shape, torch.int64))
    state.pos.copy_(torch.tensor(PLACES))
    state.steps.fill_(7)
    state.accepted.copy_(torch.arange(1, PICTURES + 1).clamp_max(window))
    state.last_logits.copy_(normal(generator, *state.last_logits.shape))
    for probs in (state.target_probs, state.draft_probs):
        probs.copy_((normal(generator, *probs.shape) * 2).softmax(-1))
    return state


def embed_window_sample(
    device: torch.device | str, dtype: torch.dtype, size: int = 300, slots: int = 5, tree: int = 0
) -> tuple[WindowState, int, Tensor, Tensor, Tensor, float]:
    """Arguments of `embed_window`."""
    state, generator = window_sample(device, Sampling(codes=50, tree=tree), slots), seeded(device)
    embedding, end_of_row, weight = normal(generator, 52, size).to(dtype).split((50, 1, 1))
    return state, slots, embedding, end_of_row[0], weight[0], 1e-5


def draw_window_sample(
    device: torch.device | str, dtype: torch.dtype, sampling: Sampling, window: int = 5, slots: int | None = None
) -> tuple[Tensor, WindowState, int]:
    """Arguments of `draw_window`: logits at `slots` (None: as many as the window has), and at the tree's nodes."""
    state = window_sample(device, sampling, window)
    shape = len(state.offset), (window if slots is None else slots) + len(state.tree), sampling.codes
    return normal(seeded(device), *shape).to(dtype), state, window


def accept_window_sample(device: torch.device | str, sampling: Sampling, window: int = 5) -> tuple[WindowState, Drawn]:
    """Arguments of `accept_window`: the second picture keeps all drafts that it can, the first follows a lane."""
    state, generator = window_sample(device, sampling, window), seeded(device)
    shape = PICTURES, window + len(state.tree)
    tokens, fresh = (integers(generator, 0, sampling.codes, shape, torch.int64) for _ in range(2))
    agree = integers(generator, 0, 4, shape, torch.int64) > 0
    agree[-1] = True
    index = state.indices(1, window)
    forced, known = state.forced.gather(1, index), state.tokens.gather(1, index)
    tokens, fresh = (torch.where(forced, known, part) for part in (tokens, fresh))
    state.heads.copy_(tokens[:, state.lanes[:, 0] - 1])
    others = integers(generator, 0, sampling.codes, (*tokens.shape, state.tree.ranks), torch.int64)
    return state, Drawn(tokens, fresh, agree | forced, normal(generator, *tokens.shape), others)


def keep_branch_sample(
    device: torch.device | str,
    dtype: torch.dtype,
    sampling: Sampling,
    kv_cache: str,
    window: int = 5,
    heads: tuple[int, int] = (2, 16),
    layers: int = 3,
) -> tuple[WindowState, KVTensor, KVTensor]:
    """Arguments of `keep_branch`: of the first picture two nodes were accepted, of the second none."""
    state, generator = window_sample(device, sampling, window), seeded(device)
    state.branch.copy_(torch.tensor([[1, PLACES[0] + 2, 2], [0, PLACES[1] + 1, 0]]))
    shape = (layers * len(state.offset), PLACES[1] + 40 + len(state.tree), *heads)
    keys, values = (kv_tensor(generator, shape, dtype, kv_cache, ()) for _ in "kv")
    return state, keys, values


def place_drafts_sample(device: torch.device | str, sampling: Sampling, window: int = 5) -> tuple[Any, ...]:
    """Arguments of `place_drafts`."""
    return window_sample(device, sampling, window), window
