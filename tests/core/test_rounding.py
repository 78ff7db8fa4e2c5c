"""The benchmark of roundings compares what it reports."""

from __future__ import annotations

import pytest
import torch

from benchmarks.rounding import compare, parse_arguments, random_weight, rounded, tables
from benchmarks.weights import fresh_batches
from lumina_core.checkpoint.find import open_checkpoint
from lumina_core.errors import InputError
from lumina_core.quant.schemes import Int4


def test_an_order_changes_the_groups_and_not_the_columns() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, scheme = random_weight((4, 256), 5.0, False, generator), Int4()
    order = torch.randperm(256, generator=generator)
    expected = scheme.dequantize(scheme.quantize(weight[:, order]), 256)
    found = rounded(weight, "nearest", order)
    assert torch.equal(found[:, order], expected) and not torch.equal(found, rounded(weight, "nearest"))


@pytest.mark.slow
def test_both_roundings_of_a_model_are_compared_with_it() -> None:
    with torch.inference_mode():
        nearest, fitted = compare("random", "t 3", fresh_batches(open_checkpoint("demo"), 2, 0), 2, 0)
    assert (nearest.more, nearest.error) == (0, 0)
    assert 0 < fitted.nats == pytest.approx(nearest.nats + fitted.more, rel=1e-4)
    assert len(tables([], [nearest, fitted], {"nearest": 1.0}).splitlines()) == 11


@pytest.mark.parametrize("option", ["orders", "scenes"])
def test_too_few_samples(option: str) -> None:
    with pytest.raises(InputError, match=f"{option} is 1; expected at least 2"):
        parse_arguments([f"--{option}", "1"])
