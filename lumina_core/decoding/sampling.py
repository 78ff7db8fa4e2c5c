"""From logits to the distribution that tokens are drawn from."""

import logging
from functools import partial

import torch
from torch import Tensor

from ..kernels.samples import draw_sample, logits_sample
from ..kernels.select import Choice, Remembered, Sample, choose

logger = logging.getLogger(__name__)


def guide(cond: Tensor, uncond: Tensor, cfg_scale: float) -> Tensor:
    """Classifier-free guidance in float32: uncond + cfg·(cond − uncond) (arXiv 2207.12598)."""
    cond, uncond = cond.float(), uncond.float()
    return uncond + cfg_scale * (cond - uncond)


def cut(logits: Tensor, top_k: int) -> Tensor:
    """Logits with all but the k largest at −inf; ties with the k-th stay (as in the published program)."""
    if top_k >= logits.shape[-1]:
        return logits
    found: Tensor = _choose(logits.device, logits.shape[-1]).function(logits, top_k)
    return found


def topk_samples(device: torch.device, count: int) -> list[Sample]:
    """Inputs for the self-tests of a top-k cut of rows of `count` logits."""
    return [partial(logits_sample, device, count)]


def draw_samples(device: torch.device, count: int) -> list[Sample]:
    """Inputs for the self-tests of draws from `count` logits: with a top-k cut, and without."""
    return [partial(draw_sample, device, count, top_k) for top_k in (50, count)]


@Remembered
def _choose(device: torch.device, count: int) -> Choice:
    """What cuts rows of `count` logits on a device, tried once in the life of the program: kernel or twin, equal."""
    choice = choose("topk_cut", device, *topk_samples(device, count))
    logger.info("top-k of %d logits: %s", count, choice)
    return choice


@Remembered
def choose_draw(device: torch.device, count: int) -> Choice:
    """What draws from rows of `count` logits on a device by the Gumbel-max trick: a kernel, or its twin."""
    choice = choose("gumbel_draw", device, *draw_samples(device, count))
    logger.info("draws from %d logits: %s", count, choice)
    return choice


def sample_inverse(weights: Tensor, uniform: Tensor) -> Tensor:
    """A draw [...] from weights [...,K] (any positive sum) by the inverse of their cumulative sum at uniform [...]."""
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    target = uniform.double().unsqueeze(-1) * cumulative[..., -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp_(max=weights.shape[-1] - 1)
