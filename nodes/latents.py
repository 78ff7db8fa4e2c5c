"""The log-likelihoods in the sampler's LATENT, and LATENTs joined and indexed by picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..lumina_core.decoding.settings import DecodeResult
from ..lumina_core.errors import InputError

# A list of floats: each picture's log-likelihood in nats per code; where a mask was filled several times, that of the
# given codes after it in nats.
LIKELIHOOD_KEY = "lumina_nats_per_code"


def with_likelihood(latent: dict, result: DecodeResult) -> dict:
    """The LATENT with the log-likelihoods of its pictures added: what Best of N ranks them by."""
    return latent | {LIKELIHOOD_KEY: list(result.given_log_likelihood or result.log_likelihood_per_code)}


def samples_of(latent: object) -> Tensor:
    """The samples of a LATENT. Raises InputError for anything else."""
    samples = latent.get("samples") if isinstance(latent, dict) else None
    if not isinstance(samples, Tensor) or samples.is_complex():
        raise InputError(
            f"the latent is a {type(latent).__name__} without a tensor of samples; expected a LATENT, as of Lumina "
            "Sampler"
        )
    return samples


def likelihoods_of(latent: dict) -> tuple[float, ...] | None:
    """The log-likelihoods in a LATENT; None if it has none, or if its batch has changed since the run."""
    likelihoods = latent.get(LIKELIHOOD_KEY)
    return tuple(likelihoods) if likelihoods and len(likelihoods) == len(samples_of(latent)) else None


def join_latents(latents: Sequence[dict]) -> dict:
    """Several LATENTs as one, with the keys that all of them have. Raises InputError for different picture sizes."""
    shapes = sorted({tuple(samples_of(latent).shape[1:]) for latent in latents})
    if len(shapes) > 1:
        raise InputError(f"the latents have shapes {shapes} without the batch; expected pictures of one size")
    shared = set.intersection(*map(set, latents))
    return {key: _joined([latent[key] for latent in latents]) for key in latents[0] if key in shared}


def pick_pictures(latent: dict, order: Sequence[int]) -> dict:
    """The LATENT of the pictures with the indices `order`, in that order, with all values that belong to them."""
    count = len(samples_of(latent))
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
