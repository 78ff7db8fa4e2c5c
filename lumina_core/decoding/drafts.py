"""What a slot that enters the window starts from, and the distribution that this counts as drawn from.

All ways are legal: a draft decides how many tokens a forward settles, never which.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..kernels.noise import FRESH
from ..tokens.vocabulary import HEADER_LENGTH
from .canvas import Canvas
from .rules import Rule, Slots


@dataclass(frozen=True)
class Entrance:
    """The slots [N,S] behind a window. `tokens` [N,length] are known up to index `known` [N,1], the one before them.

    `logits` [N,K] are the window's last, for the token at `known`.
    """

    canvas: Canvas
    tokens: Tensor
    known: Tensor
    logits: Tensor
    slots: Slots


Drafts = tuple[Tensor, Callable[[], Tensor]]
"""Drafts [N,S], and a function that gives the distributions [N,S,K] they count as drawn from."""


def enter(way: str, entrance: Entrance, rule: Rule) -> Drafts:
    """Drafts for entering slots; `way` is one of NEW_DRAFTS."""
    if way == "above":
        return _above(entrance)
    if way == "left":
        return _left(entrance)
    if way == "random":
        return _random(entrance)
    return _guess(entrance, rule)


def _above(entrance: Entrance) -> Drafts:
    """The nearest known code in the same column; in the first row, the last known code."""
    index, known, row_length = entrance.slots.index, entrance.known, entrance.canvas.row_length
    rows_up = torch.div(index - known + row_length - 1, row_length, rounding_mode="floor")
    source = index - rows_up * row_length
    return _copies(entrance, torch.where(source < HEADER_LENGTH, _last_code(entrance), source))


def _left(entrance: Entrance) -> Drafts:
    return _copies(entrance, _last_code(entrance).expand_as(entrance.slots.index))


def _random(entrance: Entrance) -> Drafts:
    codes = entrance.logits.shape[-1]
    drafts = (entrance.slots.uniform(FRESH) * codes).long().clamp_max(codes - 1)
    return drafts, lambda: entrance.logits.new_full((), 1 / codes).expand(*drafts.shape, codes)


def _guess(entrance: Entrance, rule: Rule) -> Drafts:
    """Draws from the model's distribution at the window's end."""
    logits = entrance.logits[:, None].expand(-1, entrance.slots.index.shape[1], -1)
    return rule.draw(logits, entrance.slots), lambda: logits.softmax(-1)


def _copies(entrance: Entrance, source: Tensor) -> Drafts:
    drafts, codes = entrance.tokens.gather(1, source), entrance.logits.shape[-1]
    return drafts, lambda: F.one_hot(drafts, codes).to(entrance.logits.dtype)


def _last_code(entrance: Entrance) -> Tensor:
    known = entrance.known
    return torch.where(entrance.canvas.is_end_of_row(known), known - 1, known)
