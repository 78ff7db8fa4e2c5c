"""How the logits of a window accept its drafts and draw the next ones: one rule for each decoder.

A forward gives logits at W slots, slot i for the token at `index[:, i]`. All slots but the last hold a draft. A rule
has these methods:

- `prepare`: what the rule works on, of logits [N,S,K] after guidance and temperature; top-k is up to the rule.
- `draw`: tokens [N,S] of prepared logits [N,S,K], without drafts.
- `accept`: tokens [N,W] and accept lengths [N], 1 to W, of prepared logits [N,W,K] and drafts [N,W−1]. Tokens within
  the accept length are final, those after it the next drafts.
- `commit`: moves on by `accepted` [N]; the new drafts were drawn from `new_draft_probs()` [N,W−1,K].
- `state`: what it keeps of the drafts, always the same tensors.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels.noise import ACCEPT, FRESH, REDRAW, hashed, to_uniform
from ..model.run_kernels import RunKernels
from .sampling import accept_length, couple, sample_inverse


@dataclass(frozen=True)
class Slots:
    """Where logits are: picture keys [N], token indices [N,S], forced or not [N,S], the number of the forward []."""

    keys: Tensor
    index: Tensor
    forced: Tensor
    step: Tensor

    def uniform(self, stream: int) -> Tensor:
        """Uniforms [N,S] that no other forward, index or stream has."""
        return to_uniform(hashed(self.keys[:, None], stream, self.index, self.step))


class GumbelRule:
    """`gumbel`: argmax(log p + g), g fixed by index; a draft that equals this token is accepted.

    Autoregressive decoding, `ar`, draws the same token there; it is the rule at a window of one.
    """

    state: tuple[Tensor, ...] = ()

    def __init__(self, top_k: int, kernels: RunKernels):
        self.top_k, self.kernels = top_k, kernels

    def prepare(self, logits: Tensor) -> Tensor:
        return logits

    def draw(self, logits: Tensor, slots: Slots) -> Tensor:
        return self.kernels.gumbel_draw(logits, slots.keys, slots.index, self.top_k)

    def accept(self, logits: Tensor, drafts: Tensor, slots: Slots) -> tuple[Tensor, Tensor]:
        tokens = self.draw(logits, slots)
        return tokens, accept_length((tokens[:, :-1] == drafts) | slots.forced[:, :-1])

    def commit(self, logits: Tensor, accepted: Tensor, new_draft_probs: Callable[[], Tensor]) -> None:
        """Keeps nothing: the distribution of a draft plays no part."""


class SpeculativeRule:
    """`sjd` and `coupled`: accept with min(1, p/q), else redraw from the residual.

    `sjd` draws everything after the first reject afresh (arXiv 2410.01699); `coupled` applies the same rule there too,
    so that drafts change as little as possible (arXiv 2510.24211). Either way their q is then the p of this forward.
    `draft_probs` [N,W−1,K] is the q of every draft in the window.
    """

    def __init__(self, coupled: bool, draft_probs: Tensor, top_k: int, kernels: RunKernels):
        self.coupled, self.draft_probs, self.top_k, self.kernels = coupled, draft_probs, top_k, kernels

    @property
    def state(self) -> tuple[Tensor, ...]:
        return (self.draft_probs,)

    def prepare(self, logits: Tensor) -> Tensor:
        return logits if self.top_k >= logits.shape[-1] else self.kernels.topk_cut(logits, self.top_k)

    def draw(self, logits: Tensor, slots: Slots) -> Tensor:
        return sample_inverse(logits.softmax(-1), slots.uniform(FRESH))

    def accept(self, logits: Tensor, drafts: Tensor, slots: Slots) -> tuple[Tensor, Tensor]:
        target_probs, draft_probs = logits.softmax(-1), self.draft_probs[:, : drafts.shape[1]]
        uniform, again = (slots.uniform(stream)[:, :-1] for stream in (ACCEPT, REDRAW))
        tokens, kept = couple(target_probs[:, :-1], draft_probs, drafts, uniform, again)
        bonus = sample_inverse(target_probs[:, -1:], slots.uniform(FRESH)[:, -1:])
        tokens = torch.cat((tokens, bonus), 1)
        accepted = accept_length(kept | slots.forced[:, :-1])
        if self.coupled:
            return tokens, accepted
        after = torch.arange(tokens.shape[1], device=tokens.device) >= accepted[:, None]
        return torch.where(after, self.draw(logits, slots), tokens), accepted

    def commit(self, logits: Tensor, accepted: Tensor, new_draft_probs: Callable[[], Tensor]) -> None:
        known = torch.cat((logits.softmax(-1), new_draft_probs()), 1)
        slot = accepted[:, None] + torch.arange(self.draft_probs.shape[1], device=accepted.device)
        self.draft_probs.copy_(known[torch.arange(len(known), device=accepted.device)[:, None], slot])


Rule = GumbelRule | SpeculativeRule


def make_rule(decoder: str, draft_probs: Tensor, top_k: int, kernels: RunKernels) -> Rule:
    """The rule of a decoder; `draft_probs` is storage [N,W−1,K] for a rule that keeps them."""
    if decoder in ("ar", "gumbel"):
        return GumbelRule(top_k, kernels)
    return SpeculativeRule(decoder == "coupled", draft_probs, top_k, kernels)
