"""Values per picture in the sampler's latent follow the pictures when latents are joined and indexed."""

from __future__ import annotations

import importlib

import pytest
import torch


@pytest.fixture
def latents(pack):
    return importlib.import_module(f"{pack.__name__}.nodes.latents")


@pytest.fixture
def input_error(pack):
    return importlib.import_module(f"{pack.__name__}.lumina_core.errors").InputError


def latent_of(latents, likelihoods: list[float], side: int = 2) -> dict:
    count = len(likelihoods)
    samples = torch.arange(count * 4.0 * side * side).view(count, 4, side, side) + 100 * likelihoods[0]
    return {"samples": samples, "lumina_codes": samples[:, 0].long(), latents.LIKELIHOOD_KEY: likelihoods, "note": "n"}


@pytest.mark.parametrize("latent", [None, {}, {"samples": [1, 2]}, torch.zeros(1, 4, 2, 2)])
def test_what_is_no_latent_is_an_error(latents, input_error, latent):
    with pytest.raises(input_error, match="expected a LATENT"):
        latents.samples_of(latent)


def test_picked_pictures_keep_their_values(latents):
    whole = latent_of(latents, [-1.0, -2.0, -3.0])
    picked = latents.pick_pictures(whole, [2, 0])
    for key in ("samples", "lumina_codes"):
        assert torch.equal(picked[key], whole[key][torch.tensor([2, 0])])
    assert latents.likelihoods_of(picked) == (-3.0, -1.0) and picked["note"] == "n"


def test_joined_latents_keep_the_keys_that_all_have(latents):
    first, second = latent_of(latents, [-1.0, -2.0]), latent_of(latents, [-3.0]) | {"noise_mask": torch.ones(1, 2, 2)}
    joined = latents.join_latents([first, second])
    assert torch.equal(joined["samples"], torch.cat((first["samples"], second["samples"])))
    assert latents.likelihoods_of(joined) == (-1.0, -2.0, -3.0) and "noise_mask" not in joined
    del second[latents.LIKELIHOOD_KEY]
    assert latents.likelihoods_of(latents.join_latents([first, second])) is None


def test_likelihoods_of_a_changed_batch_are_ignored(latents):
    whole = latent_of(latents, [-1.0, -2.0, -3.0])
    assert latents.likelihoods_of(whole) == (-1.0, -2.0, -3.0)
    assert latents.likelihoods_of(whole | {"samples": whole["samples"][:1]}) is None
    assert latents.likelihoods_of({"samples": whole["samples"]}) is None


def test_latents_of_different_sizes_are_refused(latents, pack):
    errors = importlib.import_module(f"{pack.__name__}.lumina_core.errors")
    with pytest.raises(errors.InputError, match="expected pictures of one size"):
        latents.join_latents([latent_of(latents, [-1.0]), latent_of(latents, [-1.0], side=3)])
