"""The benchmark of smaller weights and caches compares what it reports."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.weights import Model, Score, load, parse_arguments, score, table
from lumina_core import load_transformer
from lumina_core.checkpoint.find import open_checkpoint
from lumina_core.convert import plan_conversion
from lumina_core.errors import InputError
from training.codes import Batch

from .checkpoints import CODES, FIRST_CODE


def loaded(checkpoint: Path, form: str) -> Model:
    return load(open_checkpoint(checkpoint), form)


@pytest.fixture
def batches() -> list[Batch]:
    """Sequences of codes, each to be predicted from the one before it."""
    ids = torch.randint(CODES, (2, 3, 9), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(8).expand(3, -1)
    return [Batch(one + FIRST_CODE, positions, one[:, 1:], torch.ones(3, 8)) for one in ids]


def test_fp32_differs_from_itself_by_nothing_and_its_nats_are_its_cross_entropy(
    checkpoint: Path, batches: list[Batch]
) -> None:
    model = loaded(checkpoint, "fp32")
    found = score("fp32", model, model, batches)
    losses = []
    for batch in batches:
        logits = model.lumina.transformer(batch.input_ids)[:, :-1, FIRST_CODE : FIRST_CODE + CODES]
        losses.append(torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.codes.flatten()))
    assert (found.more, found.error, found.likeliest) == (0, 0, 1) and abs(found.divergence) < 1e-7
    assert found.nats == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    assert found.bytes == sum(part.nbytes for part in model.lumina.transformer.parameters())


def test_fewer_bits_diverge_more(checkpoint: Path, batches: list[Batch]) -> None:
    reference = loaded(checkpoint, "fp32")
    scores = [
        score(form, loaded(checkpoint, form), reference, batches)
        for form in ("bf16", "int8", "int4", "fp32, int8 cache")
    ]
    eight, four, cache = scores[1:]
    assert 0 < eight.divergence < four.divergence
    assert 0 < cache.divergence < four.divergence and cache.bytes == score("", reference, reference, batches).bytes
    assert all(0 < one.likeliest <= 1 for one in scores)
    for one in scores:
        assert one.more == pytest.approx(one.nats - score("", reference, reference, batches).nats, abs=1e-5)


def test_a_form_with_a_rounding_is_that_of_a_file_converted_with_it(checkpoint: Path, tmp_path: Path) -> None:
    plan_conversion(checkpoint, "int4", rounding="hqq").write(file := tmp_path / "hqq.safetensors")
    expected = load_transformer(file, dtype=torch.float32).state_dict()
    found, nearest = (loaded(checkpoint, form).lumina.transformer.state_dict() for form in ("int4, hqq", "int4"))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert not all(torch.equal(nearest[name], tensor) for name, tensor in expected.items())


def test_table_has_a_line_for_each_form() -> None:
    lines = table([Score("int8", 1.25, 0.001, 0.0002, 0.00013, 0.995, 2**20, 0.5)]).splitlines()
    assert len(lines) == 3 and lines[2] == "| int8 | 1.2500 | +0.0010 ± 0.0002 | 0.00013 | 99.50% | 50.0% | 1.0 |"


def test_too_few_scenes() -> None:
    with pytest.raises(InputError, match="scenes is 1; expected at least 2"):
        parse_arguments(["--scenes", "1"])
    with pytest.raises(InputError, match="prompts is 0; expected at least 1"):
        parse_arguments(["--prompts", "0"])
