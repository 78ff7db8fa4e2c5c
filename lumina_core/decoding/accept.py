"""The rules that settle drafts: pure functions of distributions, drafts and random numbers.

Notation: `target_probs` is the model's distribution p at a slot in this forward, `draft_probs` the distribution q that
the slot's draft was drawn from.
"""

import torch
from torch import Tensor

from .sampling import cut, sample_inverse

SLOW_AT_TOP_K = ("cpu",)


def accept_length(agree: Tensor) -> Tensor:
    """Tokens [N] that a forward settles: the drafts before the first disagreement in agree [N,W−1], and one more."""
    return 1 + agree.long().cumprod(1).sum(1)


def gumbel_tokens(logits: Tensor, noise: Tensor, top_k: int) -> Tensor:
    """argmax(log p + g): a draw from softmax(cut(logits, top_k)) [...,K], a function of its noise g [...,K] alone.

    The Gumbel-max trick (arXiv 1411.0030). With g fixed per position, a draft that equals this token under the settled
    prefix is what autoregressive decoding draws there. Devices that are slow at finding the k-th largest do so only
    where the argmax of all is not among the k, which the host has to see.
    """
    if top_k >= logits.shape[-1] or logits.device.type not in SLOW_AT_TOP_K:
        return (cut(logits, top_k) + noise).argmax(-1)
    tokens = (logits + noise).argmax(-1, keepdim=True)
    outside = (logits > logits.gather(-1, tokens)).sum(-1) >= top_k
    tokens = tokens.squeeze(-1)
    if outside.any():
        tokens[outside] = (cut(logits[outside], top_k) + noise[outside]).argmax(-1)
    return tokens


def accept(target_probs: Tensor, draft_probs: Tensor, drafts: Tensor, uniform: Tensor) -> Tensor:
    """Whether each draft [N,S] is kept: u < min(1, p/q) (arXiv 2211.17192, section 2.3)."""
    target = target_probs.gather(-1, drafts.unsqueeze(-1)).squeeze(-1)
    draft = draft_probs.gather(-1, drafts.unsqueeze(-1)).squeeze(-1)
    return uniform * draft < target


def residual(target_probs: Tensor, draft_probs: Tensor) -> Tensor:
    """Weights of the residual distribution (p − q)₊, not normalised (arXiv 2211.17192, section 2.3).

    Where p and q are equal but for rounding there is no residual, and p takes its place.
    """
    left = (target_probs - draft_probs).clamp_min(0)
    return torch.where(left.sum(-1, keepdim=True) > 0, left, target_probs)


def couple(
    target_probs: Tensor, draft_probs: Tensor, drafts: Tensor, uniform: Tensor, again: Tensor
) -> tuple[Tensor, Tensor]:
    """Maximal coupling: the draft where it is accepted, else a draw from the residual. Tokens and what was kept.

    Each token has law p, and equals its draft with the largest possible probability 1 − TV(p, q)
    (arXiv 2510.24211). `uniform` and `again` are independent uniforms [N,S].
    """
    kept = accept(target_probs, draft_probs, drafts, uniform)
    redrawn = sample_inverse(residual(target_probs, draft_probs), again)
    return torch.where(kept, drafts, redrawn), kept
