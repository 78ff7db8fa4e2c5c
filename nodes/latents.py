"""What the sampler's LATENT holds of each picture beside its samples, and LATENTs joined and picked by picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..lumina_core.decoding.settings import DecodeResult
from ..lumina_core.errors import InputError

# Each picture's log-likelihood in nats per code, a list of floats.
LIKELIHOOD_KEY = "lumina_nats_per_code"


def with_likelihood(latent: dict, result: DecodeResult) -> dict:
    """The LATENT of a run's codes with their log-likelihoods."""
    return latent | {LIKELIHOOD_KEY: list(result.log_likelihood_per_code)}


def likelihoods_of(latent: dict) -> tuple[float, ...] | None:
    """The log-likelihoods in a LATENT; None where it has none or was cut or repeated since it was drawn."""
    likelihoods = latent.get(LIKELIHOOD_KEY)
    return tuple(likelihoods) if likelihoods and len(likelihoods) == len(latent["samples"]) else None


def join_latents(latents: Sequence[dict]) -> dict:
    """One LATENT of several: what all of them hold. Raises InputError when their pictures differ in size."""
    shapes = sorted({tuple(latent["samples"].shape[1:]) for latent in latents})
    if len(shapes) > 1:
        raise InputError(f"the latents have shapes {shapes} beside the batch; expected pictures of one size")
    shared = set.intersection(*map(set, latents))
    return {key: _joined([latent[key] for latent in latents]) for key in latents[0] if key in shared}


def pick_pictures(latent: dict, order: Sequence[int]) -> dict:
    """The LATENT of the pictures `order`, with what it holds of each of them."""
    count = len(latent["samples"])
    return {key: _picked(value, order, count) for key, value in latent.items()}


def _joined(values: list) -> object:
    if len(values) == 1:
        return values[0]
    if all(isinstance(value, Tensor) for value in values):
        return torch.cat(values)
    if all(isinstance(value, list) for value in values):
        return [one for value in values for one in value]
    return values[0]


def _picked(value: object, order: Sequence[int], count: int) -> object:
    if isinstance(value, Tensor) and value.ndim and len(value) == count:
        return value[list(order)]
    if isinstance(value, list) and len(value) == count:
        return [value[index] for index in order]
    return value
