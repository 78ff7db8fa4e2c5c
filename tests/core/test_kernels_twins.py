"""The kernels' twins are what the engine computes, and a device that the kernels are not for gets the twins."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lumina_core.decoding import rules
from lumina_core.decoding.rules import GumbelRule, Slots
from lumina_core.decoding.sampling import cut
from lumina_core.kernels import reference, select
from lumina_core.kernels.samples import attention_sample, draw_sample, int4_sample, int8_sample, logits_sample
from lumina_core.kernels.select import Choice, Remembered, choose, retry_failed, unusable
from lumina_core.model.kv_store import KV_CACHES, make_store
from lumina_core.quant.linear import quantized_operations
from lumina_core.quant.schemes import SCHEMES

DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("in_features", [256, 200])
def test_product_is_the_quantised_layers(dtype: torch.dtype, bits: int, in_features: int) -> None:
    sample = {4: int4_sample, 8: int8_sample}[bits]
    x, *pieces = sample("cpu", dtype, in_features=in_features)
    layer = quantized_operations(SCHEMES[f"int{bits}"], nn).Linear(in_features, len(pieces[0]), bias=False)
    layer.load_state_dict(dict(zip(layer.piece_names, pieces, strict=True)))
    with torch.no_grad():
        assert torch.equal(
            getattr(reference, f"int{bits}_matmul")(x, *pieces), F.linear(x, layer.weight_rows(0, 96, x))
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kv_cache", KV_CACHES)
def test_a_store_is_read_as_itself(dtype: torch.dtype, kv_cache: str) -> None:
    store = make_store(kv_cache, (2, 3, 20, 2, 16), dtype, "cpu")
    store.write(1, torch.arange(60), torch.randn(60, 2, 16, generator=torch.Generator().manual_seed(0)).to(dtype))
    assert torch.equal(store.stored(1).read(9, dtype), store.read(1, 9))


@pytest.mark.parametrize("kv", ["int8", "int4"])
def test_attention_sees_what_is_filled_and_no_more(kv: str) -> None:
    query, keys, values, input_pos, _ = attention_sample("cpu", torch.float32, kv_cache=kv, heads=(4, 2), head_dim=16)
    found = reference.window_attention(query, keys, values, input_pos, 96)
    for row, slot in ((0, 3), (1, 0)):
        seen = int(input_pos[row, slot]) + 1
        key, value = (part.read(seen, torch.float32)[row].repeat_interleave(2, 1) for part in (keys, values))
        shares = (torch.einsum("hd,nhd->hn", query[row, slot], key) / 4).softmax(-1)
        torch.testing.assert_close(found[row, slot], torch.einsum("hn,nhd->hd", shares, value))


@pytest.mark.parametrize("top_k", [1, 50, 1000])
def test_cut_is_that_of_the_decoders(top_k: int) -> None:
    logits, _ = logits_sample("cpu")
    assert torch.equal(reference.topk_cut(logits, top_k), cut(logits, top_k))
    kth = logits.sort(-1, descending=True).values[:, [top_k - 1]]
    assert torch.equal(cut(logits, top_k), logits.where(logits >= kth, -torch.inf))


@pytest.mark.parametrize("top_k", [1, 50, 1000])
@pytest.mark.parametrize("kernel", [False, True])
def test_draws_are_those_of_the_gumbel_rule(top_k: int, kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, keys, index, _ = draw_sample("cpu")
    used = []

    def noted(*arguments: Any) -> torch.Tensor:
        used.append(arguments)
        return reference.gumbel_draw(*arguments)

    choice = Choice(noted, "triton" if kernel else "eager", "")
    monkeypatch.setattr(rules, "choose_draw", lambda device, count: choice)
    slots = Slots(keys, index, torch.zeros_like(index), torch.zeros(()))
    assert torch.equal(GumbelRule(top_k).draw(logits, slots), reference.gumbel_draw(logits, keys, index, top_k))
    assert bool(used) == kernel


@pytest.mark.parametrize("kernel", select.MODULES)
def test_a_cpu_gets_the_twin_and_no_trial(kernel: str) -> None:
    choice = choose(kernel, "cpu", lambda: pytest.fail("tried"))
    assert choice == Choice(getattr(reference, kernel), "eager", "the kernels are for NVIDIA GPUs, not cpu")


def test_an_old_gpu_gets_the_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert unusable("cuda") == "compute capability (7, 5), the kernels take (8, 0) or more"


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda logits, k: logits * 1.1, "a trial was off by 0.1 of the result"),
        (lambda logits, k: logits * torch.nan, "a trial was off by nan"),
        (lambda logits, k: SimpleNamespace().missing, "a trial failed: AttributeError"),
    ],
)
def test_a_kernel_that_fails_its_trial_gives_way_and_says_why(
    function: select.Function, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "unusable", lambda device: "")
    monkeypatch.setattr(select, "load", lambda kernel: function)
    monkeypatch.setattr(reference, "topk_cut", lambda logits, k: logits)
    choice = choose("topk_cut", "cpu", lambda: (torch.ones(1, 3), 1))
    assert choice.name == "eager" and choice.reason.startswith(reason)


def test_a_kernel_that_stands_its_trial_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "unusable", lambda device: "")
    monkeypatch.setattr(select, "load", lambda kernel: reference.int4_matmul)
    assert choose("int4_matmul", "cpu", lambda: int4_sample("cpu", torch.bfloat16)).is_kernel


@pytest.mark.parametrize(("off", "is_kernel"), [(0, True), (1, False)])
def test_tokens_that_are_others_fail_a_trial_however_near(
    off: int, is_kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(*arguments: Any) -> torch.Tensor:
        tokens = reference.gumbel_draw(*arguments)
        tokens[0, 0] += off
        return tokens

    monkeypatch.setattr(select, "unusable", lambda device: "")
    monkeypatch.setattr(select, "load", lambda kernel: drawn)
    assert choose("gumbel_draw", "cpu", lambda: draw_sample("cpu", 16_384)).is_kernel == is_kernel


def test_every_sample_is_a_trial_and_a_failure_is_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def narrow(x: torch.Tensor, *pieces: torch.Tensor) -> torch.Tensor:
        if len(x) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return reference.int4_matmul(x, *pieces)

    monkeypatch.setattr(select, "unusable", lambda device: "")
    monkeypatch.setattr(select, "load", lambda kernel: narrow)
    few, many = (lambda rows=rows: int4_sample("cpu", torch.bfloat16, rows) for rows in (5, 32))
    assert choose("int4_matmul", "cpu", few).is_lasting
    choice = choose("int4_matmul", "cpu", few, many)
    assert not choice.is_kernel and not choice.is_lasting and "CUDA out of memory" in choice.reason


def test_a_choice_is_made_once_and_again_only_after_memory_ran_out_and_at_the_beginning_of_a_run() -> None:
    reasons = iter(("a trial failed: no C compiler", "a trial found no memory: CUDA out of memory", "tried"))
    asked = []

    @Remembered
    def pick(name: str) -> Choice:
        asked.append(name)
        return Choice(reference.topk_cut, "eager", next(reasons))

    for name in ("compiler", "compiler", "memory", "memory"):
        pick(name)
    assert asked == ["compiler", "memory"]
    retry_failed()
    for name in ("compiler", "memory", "memory"):
        pick(name)
    assert asked == ["compiler", "memory", "memory"] and pick("memory").reason == "tried"


def test_without_triton_the_twin_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setitem(sys.modules, "triton", None)
    choice = choose("topk_cut", "cuda", lambda: pytest.fail("tried"))
    assert choice.name == "eager" and choice.reason.startswith("triton cannot be imported")
