"""Guidance, sampling and acceptance: pure functions of logits, distributions, drafts and random numbers.

`target_probs` is the model's distribution p at a slot in this forward, `draft_probs` the distribution q that the slot's
draft was drawn from.
"""

from torch import Tensor, int32, where


def guide(cond: Tensor, uncond: Tensor, cfg_scale: float) -> Tensor:
    """Classifier-free guidance in float32: uncond + cfg·(cond − uncond) (arXiv 2207.12598)."""
    cond, uncond = cond.float(), uncond.float()
    return uncond + cfg_scale * (cond - uncond)


def draw(weights: Tensor, times: Tensor) -> Tensor:
    """Draws [...] from weights [...,K] of any positive sum: argmax(w / E) with exponential numbers E.

    E / w is the time of the first event at rate w, and the first of all is the draw. With g = −log E this is the
    Gumbel-max trick, argmax(log w + g) (arXiv 1411.0030).
    """
    return (weights / times).argmax(-1)


def accept_length(agree: Tensor) -> Tensor:
    """Tokens [N] that a forward accepts: the drafts before the first disagreement in agree [N,W−1], and one more.

    The products are int32: older MPS has none of int64 (pytorch/pytorch#96610).
    """
    return 1 + agree.int().cumprod(1, dtype=int32).sum(1)


def accept(target_probs: Tensor, draft_probs: Tensor, drafts: Tensor, uniform: Tensor) -> Tensor:
    """Whether each draft [N,S] is accepted: u < min(1, p/q) (arXiv 2211.17192, section 2.3)."""
    target = target_probs.gather(-1, drafts.unsqueeze(-1)).squeeze(-1)
    draft = draft_probs.gather(-1, drafts.unsqueeze(-1)).squeeze(-1)
    return uniform * draft < target


def residual(target_probs: Tensor, draft_probs: Tensor) -> Tensor:
    """Weights of the residual distribution (p − q)₊, not normalised (arXiv 2211.17192, section 2.3).

    Where p and q are equal but for rounding there is no residual, and p takes its place.
    """
    left = (target_probs - draft_probs).clamp_min(0)
    return where(left.sum(-1, keepdim=True) > 0, left, target_probs)


def couple(
    target_probs: Tensor, draft_probs: Tensor, drafts: Tensor, uniform: Tensor, times: Tensor
) -> tuple[Tensor, Tensor]:
    """Maximal coupling: the draft where it is accepted, else a draw from the residual. Tokens, and what was accepted.

    Each token has law p, and equals its draft with the largest possible probability 1 − TV(p, q)
    (arXiv 2510.24211). `uniform` [N,S] and the exponential `times` [N,S,K] are independent.
    """
    accepted = accept(target_probs, draft_probs, drafts, uniform)
    redrawn = draw(residual(target_probs, draft_probs), times)
    return where(accepted, drafts, redrawn), accepted
