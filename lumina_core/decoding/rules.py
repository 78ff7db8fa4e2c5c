"""How the logits of a window settle its drafts and draw the next ones: one rule for each decoder.

A forward gives logits at W slots, slot i for the token at `index[:, i]`. All slots but the last hold a draft.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..kernels.noise import ACCEPT, FRESH, REDRAW, gumbel_noise, hashed, to_uniform
from .accept import accept_length, couple, gumbel_tokens
from .sampling import choose_draw, cut, sample_inverse


@dataclass(frozen=True)
class Slots:
    """Where logits stand: picture keys [N], token indices [N,S], forced or not [N,S], the number of the forward []."""

    keys: Tensor
    index: Tensor
    forced: Tensor
    step: Tensor

    def uniform(self, stream: int) -> Tensor:
        """Uniforms [N,S] that no other forward, index or stream sees."""
        return to_uniform(hashed(self.keys[:, None], stream, self.index, self.step))


class Rule(Protocol):
    """A decoder's rule, with what it remembers of the drafts: `state`, always the same tensors."""

    @property
    def state(self) -> tuple[Tensor, ...]: ...

    def prepare(self, logits: Tensor) -> Tensor:
        """What the rule works on, of logits [N,S,K] that are guided and over temperature; top-k is the rule's part."""
        ...

    def draw(self, logits: Tensor, slots: Slots) -> Tensor:
        """Tokens [N,S] of prepared logits [N,S,K], no drafts in play."""
        ...

    def settle(self, logits: Tensor, drafts: Tensor, slots: Slots) -> tuple[Tensor, Tensor]:
        """Tokens [N,W] and accepted lengths [N], 1 to W, for prepared logits [N,W,K] and drafts [N,W−1].

        The tokens within the accepted length are final, those behind it the next drafts.
        """
        ...

    def remember(self, logits: Tensor, accepted: Tensor, entering: Callable[[], Tensor]) -> None:
        """The window moves on by `accepted` [N]; the drafts behind it were drawn from `entering()` [N,W−1,K]."""
        ...


class GumbelRule:
    """`gumbel`: argmax(log p + g), g fixed by index; a draft counts if it is that token. `ar` is its window of one."""

    state: tuple[Tensor, ...] = ()

    def __init__(self, top_k: int):
        self.top_k = top_k

    def prepare(self, logits: Tensor) -> Tensor:
        return logits

    def draw(self, logits: Tensor, slots: Slots) -> Tensor:
        choice = choose_draw(logits.device, logits.shape[-1])
        if choice.is_kernel:
            tokens: Tensor = choice.function(logits, slots.keys, slots.index, self.top_k)
            return tokens
        return gumbel_tokens(logits, gumbel_noise(slots.keys, slots.index, logits.shape[-1]), self.top_k)

    def settle(self, logits: Tensor, drafts: Tensor, slots: Slots) -> tuple[Tensor, Tensor]:
        tokens = self.draw(logits, slots)
        return tokens, accept_length((tokens[:, :-1] == drafts) | slots.forced[:, :-1])

    def remember(self, logits: Tensor, accepted: Tensor, entering: Callable[[], Tensor]) -> None:
        """A draft's own distribution plays no part."""


class SpeculativeRule:
    """`sjd` and `coupled`: accept with min(1, p/q), else redraw from the residual.

    `sjd` draws all behind the first reject afresh (arXiv 2410.01699); `coupled` applies the same rule there too, so
    that drafts change as little as they can (arXiv 2510.24211). Either way their q is then the p of this forward.
    `draft_probs` [N,W−1,K] is the q of every draft in the window.
    """

    def __init__(self, coupled: bool, draft_probs: Tensor, top_k: int):
        self.coupled, self.draft_probs, self.top_k = coupled, draft_probs, top_k

    @property
    def state(self) -> tuple[Tensor, ...]:
        return (self.draft_probs,)

    def prepare(self, logits: Tensor) -> Tensor:
        return cut(logits, self.top_k)

    def draw(self, logits: Tensor, slots: Slots) -> Tensor:
        return sample_inverse(logits.softmax(-1), slots.uniform(FRESH))

    def settle(self, logits: Tensor, drafts: Tensor, slots: Slots) -> tuple[Tensor, Tensor]:
        target_probs, draft_probs = logits.softmax(-1), self.draft_probs[:, : drafts.shape[1]]
        uniform, again = (slots.uniform(stream)[:, :-1] for stream in (ACCEPT, REDRAW))
        tokens, kept = couple(target_probs[:, :-1], draft_probs, drafts, uniform, again)
        bonus = sample_inverse(target_probs[:, -1:], slots.uniform(FRESH)[:, -1:])
        tokens = torch.cat((tokens, bonus), 1)
        accepted = accept_length(kept | slots.forced[:, :-1])
        if self.coupled:
            return tokens, accepted
        behind = torch.arange(tokens.shape[1], device=tokens.device) >= accepted[:, None]
        return torch.where(behind, self.draw(logits, slots), tokens), accepted

    def remember(self, logits: Tensor, accepted: Tensor, entering: Callable[[], Tensor]) -> None:
        known = torch.cat((logits.softmax(-1), entering()), 1)
        slot = accepted[:, None] + torch.arange(self.draft_probs.shape[1], device=accepted.device)
        self.draft_probs.copy_(known[torch.arange(len(known), device=accepted.device)[:, None], slot])


def make_rule(decoder: str, draft_probs: Tensor, top_k: int) -> Rule:
    """The rule of a decoder; `draft_probs` is storage [N,W−1,K] for one that needs it."""
    if decoder in ("ar", "gumbel"):
        return GumbelRule(top_k)
    return SpeculativeRule(decoder == "coupled", draft_probs, top_k)
