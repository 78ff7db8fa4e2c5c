"""What a training asks the middle of the layers beside the codes, so that it learns sooner what texts mean.

Pictures say what their texts mean by a bit or two of the hundred of each; learning it from them alone takes very long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .codes import UNKNOWN, Batch
from .world import SIZES, begins_code
from .world.scenes import MOST_OBJECTS, STATED_VALUES

STATED_LAYER, AHEAD_LAYER = 2, 4
WEIGHT = 0.5


class Answers(NamedTuple):
    """Logits of the answers.

    `stated` [B,…] is what the text says (`stated_numbers`), asked of the state before a picture. The state before each
    of n codes is asked how many objects are still to begin, `to_come` [n,5], whether an edit changes the code,
    `changed` [n,2], and how large the subject is that begins next, `next_size` [n,3].
    """

    stated: Tensor
    to_come: Tensor
    changed: Tensor
    next_size: Tensor


class Questions(nn.Module):
    """The heads that read the answers from states of `width` values."""

    def __init__(self, width: int):
        super().__init__()
        self.stated = nn.Linear(width, sum(STATED_VALUES))
        self.kinds = nn.Linear(width, MOST_OBJECTS * width, bias=False)
        self.to_come = nn.Linear(width, MOST_OBJECTS + 1)
        self.changed = nn.Linear(width, 2)
        self.next_size = nn.Linear(width, len(SIZES))

    def forward(self, before: Tensor, ahead: Tensor, kind_rows: Tensor) -> Answers:
        """The answers of states before pictures [B,width] and before codes [n,width], after their layers.

        Kinds of things are read by `kind_rows` [kinds,width], which stand for them in the codes' table: so the kind in
        a text and that in a picture are compared in the same way for all kinds, as an edit must.
        """
        before, ahead = (F.rms_norm(states, states.shape[-1:]) for states in (before, ahead))
        kinds = F.linear(self.kinds(before).unflatten(-1, (MOST_OBJECTS, -1)), kind_rows.detach())
        stated = list(self.stated(before).split(STATED_VALUES, -1))
        for number, values in enumerate(kinds.unbind(-2)):
            place = number * len(STATED_VALUES) // MOST_OBJECTS
            stated[place] = stated[place] + F.pad(values, (1, 0))
        found = torch.cat(stated, -1), self.to_come(ahead), self.changed(ahead), self.next_size(ahead)
        return Answers(*(values.float() for values in found))


@contextmanager
def states_after(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """What each of the layers has given, in the order of their calls."""
    states: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda layer, inputs, output: states.append(output)) for layer in layers]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


def answers_loss(answers: Answers, batch: Batch, keep: Tensor) -> Tensor:
    """The weighted mean cross-entropies (nats) of what the batch knows, summed; `keep` [B,h·w] are the n codes."""
    device, losses = answers.stated.device, []
    if batch.stated is not None:
        parts = zip(answers.stated.split(STATED_VALUES, -1), batch.stated.to(device).unbind(1), strict=True)
        losses.append(torch.stack([F.cross_entropy(*part) for part in parts]).mean())
        drawn = batch.weights >= 1  # Not given.
        losses += _known(answers.to_come, torch.where(drawn, to_come(batch.codes), UNKNOWN)[keep])
    if batch.changed is not None:
        losses += _known(answers.changed, batch.changed[keep])
    if batch.next_size is not None:
        losses += _known(answers.next_size, batch.next_size[keep])
    return WEIGHT * torch.stack(losses).sum() if losses else answers.stated.new_zeros(())


def _known(logits: Tensor, numbers: Tensor) -> list[Tensor]:
    if (numbers == UNKNOWN).all():
        return []
    return [F.cross_entropy(logits, numbers.to(logits.device), ignore_index=UNKNOWN)]


def to_come(codes: Tensor) -> Tensor:
    """How many objects begin at or after each code [B,h·w]."""
    return (codes == begins_code()).long().flip(1).cumsum(1).flip(1)
