"""Loading tells how far it is, several times a second, and can be ended by the one who is told."""

from __future__ import annotations

import gc
import itertools
import shutil
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from lumina_core.checkpoint import tensors
from lumina_core.checkpoint.find import open_checkpoint
from lumina_core.checkpoint.published import EMBEDDING, HEAD, is_block_linear, published_shapes
from lumina_core.model import load
from lumina_core.model.load import load_transformer, loaded_values
from lumina_core.pipeline import Lumina
from lumina_core.quant import schemes
from lumina_core.quant.schemes import SCHEMES, quantize
from lumina_core.quant.weights import CHOICES

Calls = list[tuple[int, int]]


class Cancelled(Exception):
    """As ComfyUI's own exception, or KeyboardInterrupt."""


def told(source: Path, weights: str) -> Calls:
    calls: Calls = []
    load_transformer(source, weights=weights, on_progress=lambda done, total: calls.append((done, total)))
    return calls


@pytest.mark.parametrize("weights", CHOICES)
def test_all_values_are_counted_once(checkpoint: Path, weights: str) -> None:
    calls = told(checkpoint, weights)
    done, totals = zip(*calls, strict=True)
    assert set(totals) == {done[-1]} and list(done) == sorted(done) and done[0] < done[-1] / 2


def test_a_converted_file_tells_too(whole: Path) -> None:
    calls = told(whole, "auto")
    assert calls[-1][0] == calls[-1][1] and len({done for done, _ in calls}) > 10


def test_text_rows_that_stay_in_the_file_are_not_counted(checkpoint: Path) -> None:
    config = load_transformer(checkpoint).config
    shapes = published_shapes(config)
    rest = sum(
        shape[0] * (shape[1] if shape[1:] else 1) for name, shape in shapes.items() if name not in (EMBEDDING, HEAD)
    )
    assert loaded_values(config) == rest + 2 * config.codebook_size * config.hidden_size


@pytest.mark.parametrize("weights", ["fp32", "int8"])
def test_parts_are_small(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, weights: str) -> None:
    monkeypatch.setattr(load, "READ_ELEMENTS", 512)
    monkeypatch.setattr(schemes, "CPU_ELEMENTS", 512)
    done = [0, *(done for done, _ in told(checkpoint, weights))]
    assert max(later - earlier for earlier, later in itertools.pairwise(done)) <= 512


@pytest.mark.parametrize("weights", ["fp32", "int4"])
def test_parts_change_nothing(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, weights: str) -> None:
    expected = load_transformer(checkpoint, weights=weights).state_dict()
    monkeypatch.setattr(load, "READ_ELEMENTS", 300)
    found = load_transformer(checkpoint, weights=weights).state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_part_of_a_large_model_takes_a_fraction_of_a_second() -> None:
    """At 50 MB/s of a disk, or 20 million values a second of a slow CPU."""
    assert load.READ_ELEMENTS * 2 / 50e6 < 0.2 and schemes.CPU_ELEMENTS / 20e6 < 0.2
    assert tensors.PART_BYTES / 50e6 < 0.7


def test_quantising_tells_after_every_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemes, "CPU_ELEMENTS", 1000)
    counts: list[int] = []
    quantize(SCHEMES["int4"], torch.ones(25, 256), "cpu", "w", counts.append)
    assert counts == [3 * 256] * 8 + [256]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("weights", ["fp32", "int8"])
@pytest.mark.parametrize("call", [1, 7])
def test_an_exception_ends_the_loading_and_leaves_nothing(
    checkpoint: Path, tmp_path: Path, weights: str, call: int
) -> None:
    own = shutil.copytree(checkpoint, tmp_path / "own")  # nothing else maps it
    calls = 0

    def cancel(_: int, __: int) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Cancelled

    with pytest.raises(Cancelled):
        Lumina.load(own, device="cpu", weights=weights, on_progress=cancel)
    gc.collect()
    assert calls == call and str(own / "model") not in Path("/proc/self/maps").read_text()


def test_a_large_tensor_is_told_of_while_its_values_are_looked_at(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_checkpoint(checkpoint).tensors
    monkeypatch.setattr(tensors, "PART_BYTES", store.shapes[EMBEDDING][1] * 4 * 10)
    for get in (store.get, open_checkpoint(checkpoint).tensors.get_alone):
        on_part = Mock()
        get(EMBEDDING, on_part)
        assert on_part.call_count > store.shapes[EMBEDDING][0] // 10


def test_every_linear_weight_is_told_of_before_the_next_is_read(checkpoint: Path) -> None:
    config = load_transformer(checkpoint).config
    steps = {done for done, _ in told(checkpoint, "int4")}
    assert len(steps) >= len([name for name in published_shapes(config) if is_block_linear(name)])
