"""Random numbers are uniform, Gumbel and independent, and belong to (seed, position) alone.

What is drawn here is fixed. A right generator would fail with probability 1e-4, were the seeds drawn anew (Bonferroni).
"""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare, gumbel_r, kstest
from torch import Tensor

from lumina_core.kernels.noise import (
    ACCEPT,
    FRESH,
    GUMBEL,
    REDRAW,
    code_noise,
    gumbel_noise,
    hashed,
    mix,
    picture_keys,
    to_gumbel,
    to_uniform,
)

COUNT, BINS = 100_000, 16
TESTS = 24
THRESHOLD = 1e-4 / TESTS


def keys(count: int = 1, first: int = 0) -> Tensor:
    return picture_keys(range(first, first + count), "cpu")


def hashes(seed: Tensor | int = 0, stream: int = ACCEPT, index: Tensor | int = 3, step: Tensor | int = 1) -> Tensor:
    """COUNT hashes along whichever coordinates are given as tensors."""
    seeds, index, step = (torch.as_tensor(x).expand(COUNT) for x in (seed, index, step))
    return hashed(mix(seeds.clone()), stream, index, step)


def uniforms(**coordinates: Tensor | int) -> Tensor:
    return to_uniform(hashes(**coordinates))


def uniforms_of_codes(codes: int = 1, **coordinates: Tensor | int) -> Tensor:
    """The noise of the last of so many codes, as the uniforms [COUNT] that it is made of."""
    noise = code_noise(hashes(**coordinates), codes)[:, -1]
    return torch.from_numpy(gumbel_r.cdf(noise.double().numpy()))


ALONG = torch.arange(COUNT)
LINES = {
    "seeds": uniforms(seed=ALONG),
    "positions": uniforms(index=ALONG),
    "forwards": uniforms(step=ALONG),
    "diagonal": uniforms(seed=ALONG, index=ALONG, step=ALONG),
}
NEIGHBOURS = {
    "next seed": (LINES["positions"], uniforms(seed=1, index=ALONG)),
    "next position": (LINES["seeds"], uniforms(seed=ALONG, index=4)),
    "next forward": (LINES["seeds"], uniforms(seed=ALONG, step=2)),
    "position before, forward behind": (LINES["seeds"], uniforms(seed=ALONG, index=2, step=2)),
    "accept and redraw": (LINES["seeds"], uniforms(seed=ALONG, stream=REDRAW)),
    "accept and fresh": (LINES["seeds"], uniforms(seed=ALONG, stream=FRESH)),
    "redraw and fresh": (uniforms(seed=ALONG, stream=REDRAW), uniforms(seed=ALONG, stream=FRESH)),
    "accept and the noise of a redraw": (LINES["seeds"], uniforms_of_codes(seed=ALONG, stream=REDRAW)),
    "redraw and the noise of its first code": (
        uniforms(seed=ALONG, stream=REDRAW),
        uniforms_of_codes(seed=ALONG, stream=REDRAW),
    ),
    "noise of a redraw in the next forward": (
        uniforms_of_codes(2, seed=ALONG, stream=REDRAW),
        uniforms_of_codes(2, seed=ALONG, stream=REDRAW, step=2),
    ),
    "gumbel and accept": (uniforms(seed=ALONG, stream=GUMBEL), LINES["seeds"]),
    "one along positions": (LINES["positions"], LINES["positions"].roll(1)),
    "one along seeds": (LINES["seeds"], LINES["seeds"].roll(1)),
}
GUMBELS = {
    "codes": gumbel_noise(keys(), torch.tensor([[3]]), COUNT),
    "positions": gumbel_noise(keys(), ALONG[None], 1),
    "seeds": gumbel_noise(keys(COUNT), torch.tensor([[3]]).expand(COUNT, 1), 1),
    "forwards": code_noise(hashes(stream=REDRAW, step=ALONG), 1),
}


@pytest.mark.parametrize("numbers", LINES.values(), ids=LINES)
def test_uniform(numbers: Tensor) -> None:
    assert kstest(numbers.double().numpy(), "uniform").pvalue > THRESHOLD


@pytest.mark.parametrize(("one", "other"), NEIGHBOURS.values(), ids=NEIGHBOURS)
def test_neighbours_are_independent(one: Tensor, other: Tensor) -> None:
    cell = (one * BINS).long() * BINS + (other * BINS).long()
    assert chisquare(cell.bincount(minlength=BINS**2).numpy()).pvalue > THRESHOLD


@pytest.mark.parametrize("noise", GUMBELS.values(), ids=GUMBELS)
def test_gumbel(noise: Tensor) -> None:
    assert kstest(noise.flatten().double().numpy(), gumbel_r.cdf).pvalue > THRESHOLD


def test_gumbel_noise_of_neighbouring_codes_is_independent() -> None:
    numbers = torch.from_numpy(gumbel_r.cdf(gumbel_noise(keys(), ALONG[None, : COUNT // 2], 2)[0].double().numpy()))
    cell = (numbers[:, 0] * BINS).long() * BINS + (numbers[:, 1] * BINS).long()
    assert chisquare(cell.bincount(minlength=BINS**2).numpy()).pvalue > THRESHOLD


def test_noise_belongs_to_its_picture_and_position() -> None:
    """Whatever the batch, the order and the window."""
    index = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12], [5, 6, 7, 8]])
    noise = gumbel_noise(keys(3), index, 50)
    for k in range(3):
        alone = gumbel_noise(keys(first=k), index[k : k + 1].flip(1), 50)[0].flip(0)
        assert torch.equal(noise[k], alone)
        assert torch.equal(noise[k, 2:3], gumbel_noise(keys(first=k), index[k : k + 1, 2:3], 50)[0])
    assert not torch.equal(noise[0], noise[2])


def test_more_codes_leave_the_noise_of_the_first() -> None:
    assert torch.equal(
        gumbel_noise(keys(), torch.tensor([[3]]), 9)[..., :5], gumbel_noise(keys(), torch.tensor([[3]]), 5)
    )


def test_no_two_hashes_meet() -> None:
    """2^18 of 64 bits, in all coordinates together."""
    index, step = torch.arange(32)[:, None], torch.arange(32)
    found = [hashed(keys(64)[:, None, None], stream, index, step) for stream in (GUMBEL, ACCEPT, REDRAW, FRESH)]
    assert torch.stack(found).unique().numel() == 2**18


def test_every_seed_is_its_own() -> None:
    seeds = [0, 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1]
    assert picture_keys(seeds, "cpu").unique().numel() == len(seeds)


def test_mix_is_splitmix64() -> None:
    """The first outputs of the published generator from state 0."""
    golden = 0x9E3779B97F4A7C15
    states = torch.tensor([0, golden - 2**64, (2 * golden) % 2**64])
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [value % 2**64 for value in mix(states).tolist()] == expected


def test_extreme_hashes_are_legal_numbers() -> None:
    bits = torch.tensor([0, -1, 1, 2**63 - 1, -(2**63)])
    uniform, gumbel = to_uniform(bits), to_gumbel(bits)
    assert (uniform > 0).all() and (uniform < 1).all() and gumbel.isfinite().all()
    # The likeliest code must be able to lose against one of probability 1e-15.
    assert gumbel.max() > 35 and gumbel.min() < -2.5


def test_a_seed_means_the_same_in_all_versions() -> None:
    """Pictures are named by their seed: these numbers may never change."""
    at = hashed(keys(2, first=7)[:, None], ACCEPT, torch.tensor([[3, 4]]), torch.tensor(5))
    assert at.tolist() == [[-1390533802422159316, 1039917579547525556], [-8186162975755654371, -5420741808142089505]]
    noise = gumbel_noise(keys(first=7), torch.tensor([[3]]), 3)
    assert noise.flatten().tolist() == pytest.approx([0.456591, -0.884341, -0.212461], abs=1e-5)
