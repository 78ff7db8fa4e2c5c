"""Random windows for the self-tests of the kernels that move one: two pictures, at different places."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .noise import picture_keys
from .samples import integers, normal, seeded
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
    state.tokens.copy_(torch.where(layout.is_forced(state.slot), 0, tokens))
    state.pos.copy_(torch.tensor(PLACES))
    state.steps.fill_(7)
    state.accepted.copy_(torch.arange(1, PICTURES + 1).clamp_max(window))
    state.last_logits.copy_(normal(generator, *state.last_logits.shape))
    for probs in (state.target_probs, state.draft_probs):
        probs.copy_((normal(generator, *probs.shape) * 2).softmax(-1))
    return state


def embed_window_sample(
    device: torch.device | str, dtype: torch.dtype, size: int = 300, slots: int = 5
) -> tuple[WindowState, int, Tensor, Tensor, Tensor, float]:
    """Arguments of `embed_window`."""
    state, generator = window_sample(device, Sampling(codes=50), slots), seeded(device)
    embedding, end_of_row, weight = normal(generator, 52, size).to(dtype).split((50, 1, 1))
    return state, slots, embedding, end_of_row[0], weight[0], 1e-5


def draw_window_sample(
    device: torch.device | str, dtype: torch.dtype, sampling: Sampling, window: int = 5, slots: int | None = None
) -> tuple[Tensor, WindowState, int]:
    """Arguments of `draw_window`: logits at `slots` (None: as many as the window has)."""
    state = window_sample(device, sampling, window)
    shape = len(state.offset), window if slots is None else slots, sampling.codes
    return normal(seeded(device), *shape).to(dtype), state, window


def accept_window_sample(device: torch.device | str, sampling: Sampling, window: int = 5) -> tuple[WindowState, Drawn]:
    """Arguments of `accept_window`: the second picture keeps all drafts that it can."""
    state, generator = window_sample(device, sampling, window), seeded(device)
    tokens, fresh = (integers(generator, 0, sampling.codes, (PICTURES, window), torch.int64) for _ in range(2))
    agree = integers(generator, 0, 4, (PICTURES, window), torch.int64) > 0
    agree[-1] = True
    forced = state.layout.is_forced(state.index(1, window))
    tokens, fresh = (torch.where(forced, 0, part) for part in (tokens, fresh))
    return state, Drawn(tokens, fresh, agree | forced, normal(generator, PICTURES, window))


def place_drafts_sample(device: torch.device | str, sampling: Sampling, window: int = 5) -> tuple[Any, ...]:
    """Arguments of `place_drafts`."""
    return window_sample(device, sampling, window), window
