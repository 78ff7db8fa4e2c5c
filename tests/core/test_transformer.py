"""The logits are the published program's, in one pass and through the cache, whatever the cache held before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.checkpoint.find import load_tokenizer
from lumina_core.checkpoint.published import UNUSED_PREFIX, published_shapes
from lumina_core.kernels.reference import HEAD_NORM_EPS
from lumina_core.model.kv_cache import KVCache
from lumina_core.model.layers import HeadNorm
from lumina_core.model.load import load_transformer, placement
from lumina_core.model.transformer import Transformer

TOLERANCE = 1e-4
LENGTH = 37
CASES = ["mha", "gqa_swin"]
pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")


@dataclass(frozen=True)
class Case:
    """A small model, token ids [2,37] and the published program's logits [2,37,V] of them."""

    model: Transformer
    input_ids: Tensor
    logits: Tensor

    def cache(self, rows: int = 2) -> KVCache:
        return KVCache(self.model.config, rows, LENGTH, dtype=torch.float32, device="cpu")


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, golden: Path) -> Case:
    folder = golden / "transformer" / request.param
    expected = load_file(folder / "expected.safetensors")
    return Case(load_transformer(folder, dtype=torch.float32), expected["input_ids"], expected["logits"])


@pytest.fixture(scope="module")
def published(golden: Path) -> dict:
    return json.loads((golden / "lumina_mgpt2_7b_state_dict.json").read_text())


def span(first: int, end: int, rows: int = 2) -> Tensor:
    return torch.arange(first, end).expand(rows, -1)


def run_windows(model: Transformer, ids: Tensor, cache: KVCache, windows: Sequence[int], first: int = 0) -> Tensor:
    """Logits of ids from position `first` on, in forwards of so many tokens."""
    parts = []
    for size in windows:
        end = first + size
        parts.append(model(ids[:, first:end], cache, span(first, end, len(ids))))
        first = end
    return torch.cat(parts, dim=1)


def write_garbage(case: Case, cache: KVCache, first: int, end: int) -> None:
    """Drafts that will all be taken back."""
    drafts = (case.input_ids[:, first:end] + 1) % case.model.config.vocab_size
    case.model(drafts, cache, span(first, end))


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


def test_logits_in_one_pass(case: Case) -> None:
    assert_close(case.model(case.input_ids), case.logits)


@pytest.mark.parametrize("windows", [(20, 1, 5, 11), (LENGTH,), (1,) * LENGTH], ids=["mixed", "whole", "ones"])
def test_logits_through_the_cache(case: Case, windows: tuple[int, ...]) -> None:
    assert_close(run_windows(case.model, case.input_ids, case.cache(), windows), case.logits)


def test_drafts_that_are_taken_back_leave_no_trace(case: Case) -> None:
    cache = case.cache()
    run_windows(case.model, case.input_ids, cache, (20,))
    for first in (20, 21, 26):
        write_garbage(case, cache, first, min(first + 9, LENGTH))
        run_windows(case.model, case.input_ids, cache, (5,), first)
    write_garbage(case, cache, 20, LENGTH)
    rest = run_windows(case.model, case.input_ids, cache, (1, 5, 11), first=20)
    assert_close(rest, case.logits[:, 20:])


def test_reading_more_of_the_cache_changes_nothing(case: Case) -> None:
    cache, model = case.cache(), case.model
    run_windows(model, case.input_ids, cache, (20,))
    write_garbage(case, cache, 20, LENGTH)
    hidden = model.hidden_states(model.embed(case.input_ids[:, 20:25]), cache.plan(span(20, 25), kv_len=LENGTH))
    assert_close(F.linear(hidden, model.text_head), case.logits[:, 20:25])


def test_rows_may_stand_at_different_positions(case: Case) -> None:
    cache = case.cache()
    run_windows(case.model, case.input_ids, cache, (20,))
    positions = torch.stack((torch.arange(20, 25), torch.arange(17, 22)))
    logits = case.model(case.input_ids.gather(1, positions), cache, positions)
    assert_close(logits, torch.stack((case.logits[0, 20:25], case.logits[1, 17:22])))


def test_a_copied_row_continues_as_its_source(case: Case) -> None:
    cache = case.cache()
    run_windows(case.model, case.input_ids, cache, (20,))
    cache.copy_row(1, 0, 20)
    rest = run_windows(case.model, case.input_ids[1:].expand(2, -1), cache, (17,), first=20)
    assert_close(rest, case.logits[1:, 20:].expand(2, -1, -1))


def test_prefill_fills_one_row_alone(case: Case) -> None:
    cache, model = case.cache(), case.model
    run_windows(model, case.input_ids, cache, (20,))
    write_garbage(case, cache, 0, 20)
    for row, length in ((1, 20), (0, 20)):
        ids = case.input_ids[row : row + 1, :length]
        hidden = model.hidden_states(model.embed(ids), cache.prefill_plan(row, length))
        assert_close(F.linear(hidden, model.text_head), case.logits[row : row + 1, :length])
    assert_close(run_windows(model, case.input_ids, cache, (17,), first=20), case.logits[:, 20:])


def test_cache_takes_the_bytes_it_says(case: Case) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        cache = KVCache(case.model.config, 2, LENGTH, dtype=dtype, device="cpu")
        stored = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        assert KVCache.bytes_needed(case.model.config, 2, LENGTH, dtype) == stored


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_is_near(golden: Path, name: str) -> None:
    folder = golden / "transformer" / name
    expected = load_file(folder / "expected.safetensors")
    model = load_transformer(folder, dtype=torch.bfloat16)
    logits = model(expected["input_ids"])
    assert {weight.dtype for weight in model.parameters()} == {logits.dtype} == {torch.bfloat16}
    assert (logits.float() - expected["logits"]).norm() < 0.05 * expected["logits"].norm()


@pytest.mark.parametrize(("parts", "heads"), [(1, 4), (2, 4), (4, 4), (2, 2)])
def test_each_part_of_the_heads_has_its_own_norm(parts: int, heads: int) -> None:
    norm, x = HeadNorm(parts, 16), torch.randn(2, 5, heads, 16)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    normed = norm(x)
    for head in range(heads):
        part = head // (heads // parts)
        expected = F.layer_norm(x[:, :, head], (16,), norm.weight[part], norm.bias[part], HEAD_NORM_EPS)
        torch.testing.assert_close(normed[:, :, head], expected)


def test_published_names_and_shapes(published: dict) -> None:
    expected = {name: tuple(shape) for name, shape in published["tensors"].items() if UNUSED_PREFIX not in name}
    assert published_shapes(TransformerConfig.from_dict(published["config"])) == expected


@pytest.mark.parametrize("change", [{}, {"num_key_value_heads": 8}, {"vocab_size": 4096, "num_hidden_layers": 1}])
def test_every_row_of_every_parameter_is_filled_exactly_once(published: dict, change: dict) -> None:
    config = replace(TransformerConfig.from_dict(published["config"]), **change)
    with torch.device("meta"):
        model = Transformer(config)
    filled = {name: torch.zeros(weight.shape[0], dtype=torch.int) for name, weight in model.named_parameters()}
    for name, shape in published_shapes(config).items():
        place = placement(name, model)
        rows = range(shape[0]) if place.source_rows is None else place.source_rows
        assert rows.stop <= shape[0] and shape[1:] == model.get_parameter(place.parameter).shape[1:]
        filled[place.parameter][place.first_row : place.first_row + len(rows)] += 1
    assert [name for name, count in filled.items() if not (count == 1).all()] == []


def test_published_greedy_tokens_are_the_likeliest(golden: Path, full_golden: Path) -> None:
    expected = json.loads((golden / "end_to_end" / "expected.json").read_text())["t2i_cfg1"]
    prompt = load_tokenizer(full_golden / "tokenizer").encode_prompt(expected["prompt"])
    model = load_transformer(full_golden / "end_to_end" / "checkpoint", dtype=torch.float32)
    ids = torch.tensor([prompt + expected["tokens"]])
    hidden = model.hidden_states(model.embed(ids), model.plan(ids))[0, len(prompt) - 1 : -1]
    likeliest = model.code_logits(hidden).argmax(-1) + model.code_range.start
    tokens = ids[0, len(prompt) :]
    drawn = torch.isin(tokens, torch.tensor(model.code_range))
    assert int(drawn.sum()) == expected["width"] * expected["height"] // 64
    assert torch.equal(likeliest[drawn], tokens[drawn])
