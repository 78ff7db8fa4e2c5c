"""The state of a window that moves over a batch of pictures, as the kernels of a step take it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .draft_tree import NO_TREE, DraftTree

ABOVE, LEFT, RANDOM, GUESS = NEW_DRAFTS = ("above", "left", "random", "guess")
GUMBEL, SJD, COUPLED = RULES = ("gumbel", "sjd", "coupled")


@dataclass(frozen=True)
class Layout:
    """The tokens of a picture by index: a header of so many, then rows of `row_length`, their end of row included.

    `last` is the index of the last code.
    """

    header: int
    row_length: int
    last: int

    def is_end_of_row(self, index: Tensor) -> Tensor:
        """Whether each index after the header is an end of row."""
        return (index - self.header) % self.row_length == self.row_length - 1


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn from the logits of `codes` codes: one of RULES, and one of NEW_DRAFTS.

    `tree` is the number of nodes of `gumbel`'s draft tree. `top_p` 1 and `min_p` 0 cut nothing.
    """

    codes: int
    rule: str = GUMBEL
    new_drafts: str = ABOVE
    cfg_scale: float = 4.0
    temperature: float = 1.0
    top_k: int = 4096
    tree: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    @property
    def guided(self) -> bool:
        """Whether there is an unconditional branch."""
        return self.cfg_scale != 1.0

    @property
    def speculative(self) -> bool:
        """Whether the rule needs the distributions that drafts were drawn from."""
        return self.rule != GUMBEL

    @property
    def guesses(self) -> bool:
        """Whether new drafts are drawn from the model's distribution at the window's end."""
        return self.new_drafts == GUESS

    @property
    def cuts_by_probability(self) -> bool:
        """Whether codes are cut by top-p or min-p, beside top-k."""
        return self.top_p < 1 or self.min_p > 0


@dataclass(frozen=True)
class WindowState:
    """N pictures in R rows (R is N, or 2·N with the unconditional branch last), each with a window of W slots.

    After the slots of a forward come the T nodes of the draft tree, if there is one: the first node of a lane takes its
    code of `heads` [N,lanes], the others the window's drafts at their index.

    `tokens` [N,length] hold codes by index (0 at an end of row): accepted ones up to `pos` [N], the drafts of the next
    forward after it. `forced` [N,length] is where the token is known and never drawn: it is in `tokens` from the start,
    a given code, an end of row, and all after the last code. `accept_step` [N,length] is the forward that accepted each
    token, −1 where none has; `log_probs` [N,length] the log of its guided probability then, 0 where none has; at an end
    of row it says nothing. `steps` [N] counts forwards, `accepted` [N] is
    how far the last one moved the window. `keys` [N] are the pictures' random keys; a row's position is its index plus
    `offset` [R]. `target_probs` [N,W,K] and `draft_probs` [N,W−1,K] are p and q of each slot, with K = 0 for a rule
    that needs none; `last_logits` [N,K] those of the window's last slot after the cut, with K = 0 unless drafts are
    guessed. `branch` [N,3] is what the last forward accepted of a lane: its first node, that node's index, and how many
    nodes. `lanes` [lanes,4] is the tree's table, `depths` [T] says where its nodes are.
    """

    layout: Layout
    sampling: Sampling
    window: int
    keys: Tensor
    offset: Tensor
    tokens: Tensor
    forced: Tensor
    accept_step: Tensor
    log_probs: Tensor
    pos: Tensor
    steps: Tensor
    accepted: Tensor
    target_probs: Tensor
    draft_probs: Tensor
    last_logits: Tensor
    heads: Tensor
    branch: Tensor
    tree: DraftTree
    lanes: Tensor
    depths: Tensor
    slot: Tensor = field(repr=False)

    @staticmethod
    def empty(
        layout: Layout, sampling: Sampling, window: int, pictures: int, length: int, device: torch.device | str
    ) -> WindowState:
        """The state before anything is drawn; `length` holds a window at the last index and its drafts."""
        rows = pictures * (2 if sampling.guided else 1)
        codes = sampling.codes if sampling.speculative else 0
        tree = DraftTree.of(sampling.tree, window)

        def integers(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        def floats(*shape: int) -> Tensor:
            return torch.zeros(shape, device=device)

        return WindowState(
            layout,
            sampling,
            window,
            keys=integers(pictures),
            offset=integers(rows),
            tokens=integers(pictures, length),
            forced=torch.zeros(pictures, length, dtype=torch.bool, device=device),
            accept_step=integers(pictures, length),
            log_probs=floats(pictures, length),
            pos=integers(pictures),
            steps=integers(pictures),
            accepted=integers(pictures),
            target_probs=floats(pictures, window, codes),
            draft_probs=floats(pictures, window - 1, codes),
            last_logits=floats(pictures, sampling.codes if sampling.guesses else 0),
            heads=integers(pictures, len(tree.lanes)),
            branch=integers(pictures, 3),
            tree=tree,
            lanes=tree.table(device),
            depths=tree.depths(device),
            slot=torch.arange(max(length, window + len(tree)), device=device),
        )

    @property
    def changed(self) -> tuple[Tensor, ...]:
        """Every tensor that a step changes; always the same tensors."""
        return (
            *(self.tokens, self.accept_step, self.log_probs, self.pos, self.steps, self.accepted),
            *(self.target_probs, self.draft_probs, self.last_logits, self.heads, self.branch),
        )

    @property
    def without_tree(self) -> WindowState:
        """The same window for a forward that runs no tree."""
        tables = NO_TREE.table(self.pos.device), NO_TREE.depths(self.pos.device)
        return replace(self, heads=self.heads[:, :0], tree=NO_TREE, lanes=tables[0], depths=tables[1])

    def index(self, first: int, count: int) -> Tensor:
        """Indices [N,count] of the slots from the window's slot `first` on; slot 0 is the last accepted token."""
        return self.pos[:, None] + self.slot[first : first + count]

    def indices(self, first: int, count: int) -> Tensor:
        """As `index`, and those of the tree's nodes, each `first` places on: [N,count+T]."""
        return torch.cat((self.index(first, count), self.pos[:, None] + self.depths + first), 1)


class Drawn(NamedTuple):
    """What a forward draws for the tokens after the slots of a window and the nodes of its tree, each [N,width+T].

    `tokens` are final within the accept length, and the next drafts after it; there the rule `sjd` takes `fresh`.
    `agree` is whether the window's draft at the next index stays (of the last slot: nothing). `log_probs` are those of
    `tokens`. `others` [N,width+T,ranks] are the codes that the noise picks next to `tokens`, the nearest first.
    """

    tokens: Tensor
    fresh: Tensor
    agree: Tensor
    log_probs: Tensor
    others: Tensor
