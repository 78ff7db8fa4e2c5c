"""Triton kernels agree with their references on a GPU, at small sizes and at the published model's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lumina_core.checkpoint.packed_weights import from_gpu_order
from lumina_core.kernels import reference
from lumina_core.kernels.samples import (
    add_rms_norm_sample,
    attention_sample,
    int4_sample,
    int8_sample,
    qkv_sample,
    silu_gate_sample,
)
from lumina_core.kernels.select import MODULES, Choice, choose, load, unsupported_reason
from lumina_core.kernels.self_test import Sample
from lumina_core.kernels.window_samples import (
    accept_window_sample,
    draw_window_sample,
    embed_window_sample,
    place_drafts_sample,
)
from lumina_core.kernels.window_state import COUPLED, GUESS, Sampling
from lumina_core.quant import select, tinygemm
from lumina_core.quant.linear import PLAIN, MatmulBackend, QuantizedLinear, quantized_operations
from lumina_core.quant.schemes import SCHEMES, Scheme
from lumina_core.quant.select import choose_backend, matmul_sample

from ..kernel_cases import LARGE, SMALL, clean

UNSUPPORTED = unsupported_reason("cuda") if torch.cuda.is_available() else "there is no CUDA device"
pytestmark = pytest.mark.skipif(bool(UNSUPPORTED), reason=UNSUPPORTED)
BF16 = torch.bfloat16
SAMPLING = Sampling(1000, COUPLED, GUESS, top_k=250)
SAMPLES = {
    "window_attention": Sample.of(attention_sample, dtype=BF16, kv_cache="int4", corrupt=False),
    "int4_matmul": Sample.of(int4_sample, dtype=BF16),
    "int8_matmul": Sample.of(int8_sample, dtype=BF16),
    "embed_window": Sample.of(embed_window_sample, dtype=BF16),
    "draw_window": Sample.of(draw_window_sample, dtype=BF16, sampling=SAMPLING),
    "accept_window": Sample.of(accept_window_sample, sampling=SAMPLING),
    "place_drafts": Sample.of(place_drafts_sample, sampling=SAMPLING),
    "qkv_norm_rope_store": Sample.of(qkv_sample, dtype=BF16, kv_cache="int4"),
    "silu_gate": Sample.of(silu_gate_sample, dtype=BF16),
    "add_rms_norm": Sample.of(add_rms_norm_sample, dtype=BF16),
}


@pytest.mark.parametrize("case", [*SMALL, *LARGE])
def test_a_kernel_agrees_with_its_reference(case: str) -> None:
    every = {**SMALL, **LARGE}
    assert every[case].difference("cuda") <= every[case].gpu_tolerance


@pytest.mark.parametrize("kernel", MODULES)
def test_a_kernel_passes_its_self_test(kernel: str) -> None:
    choice = choose(kernel, "cuda", (SAMPLES[kernel],))
    assert choice.is_kernel, choice.reason


@pytest.mark.parametrize("width", [1, 4, 32])
def test_a_querys_result_does_not_depend_on_how_far_the_cache_is_read(width: int) -> None:
    query, keys, values, input_pos, kv_len, *_ = attention_sample(
        "cuda", torch.bfloat16, kv_cache="int8", filled=(1500, 700), width=width, length=2048
    )
    attend = load("window_attention")
    near = attend(query, keys, values, input_pos, kv_len)
    assert torch.equal(near, attend(query, keys, values, input_pos, 2048))


@pytest.mark.parametrize("width", [2, 32, 64])
def test_a_querys_result_does_not_depend_on_the_positions_of_others(width: int) -> None:
    """But for a window on both sides of 2048 slots, where chunks double."""
    query, keys, values, input_pos, *_ = attention_sample(
        "cuda", torch.bfloat16, kv_cache="int8", filled=(1500, 700), width=width, length=2048, corrupt=False
    )
    attend = load("window_attention")
    found = attend(query, keys, values, input_pos, 2048)
    alone = input_pos.clone()
    alone[:, 1:] = 0
    assert torch.equal(attend(query, keys, values, alone, 2048)[:, 0], found[:, 0])


@pytest.mark.parametrize("scheme", select.SAMPLES)
@pytest.mark.parametrize(("in_features", "out_features"), [(4096, 4096), (4096, 12_288), (300, 70)])
def test_a_row_is_rounded_alike_whatever_the_others(scheme: str, in_features: int, out_features: int) -> None:
    """`gumbel` has to draw what `ar` draws, with other windows."""
    multiply, sizes = load(f"{scheme}_matmul"), {"in_features": in_features, "out_features": out_features}
    x, *packed = matmul_sample("cuda", scheme=scheme, dtype=BF16, rows=200, **sizes)
    one = multiply(x[:1].contiguous(), *packed, sum_splits=False)
    for rows in (2, 16, 17, 32, 64, 65, 128, 200):
        assert torch.equal(multiply(x[:rows].contiguous(), *packed, sum_splits=False)[:, :1], one)


@pytest.mark.parametrize("scheme", select.SAMPLES)
def test_tiles_give_what_rows_give(scheme: str) -> None:
    multiply, sizes = load(f"{scheme}_matmul"), {"dtype": BF16, "rows": 32, "in_features": 1280, "out_features": 160}
    x, *tiles = matmul_sample("cuda", scheme=scheme, **sizes)
    rows = select.SAMPLES[scheme]("cuda", **sizes)[1:]
    assert tiles[0].shape != rows[0].shape and torch.equal(multiply(x, *tiles), multiply(x, *rows))


def test_attention_in_a_graph_follows_positions_that_change_on_the_device() -> None:
    sample = attention_sample("cuda", torch.bfloat16, kv_cache="int8", filled=(1500, 700), length=2048)
    query, keys, values, input_pos, *_ = clean(sample)
    attend = load("window_attention")
    attend(query, keys, values, input_pos, 2048)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        held = attend(query, keys, values, input_pos, 2048)
    for back in (0, 600, 95):
        input_pos -= back
        graph.replay()
        expected = reference.window_attention(query, keys, values, input_pos, 2048)
        torch.testing.assert_close(held, expected, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("scheme", [SCHEMES[name] for name in select.SAMPLES], ids=select.SAMPLES)
@pytest.mark.parametrize("rows", [1, 32, 65])
def test_a_quantised_layer_multiplies_by_the_kernel(scheme: Scheme, rows: int) -> None:
    weight, x = torch.randn(160, 256) * 0.02, torch.randn(2, rows, 256, device="cuda").bfloat16()
    backend = choose_backend(scheme, torch.bfloat16, "cuda")
    assert backend.name.startswith("triton"), backend.name
    expected = make_layer(scheme, weight, PLAIN)(x).float()
    layer = make_layer(scheme, weight, backend)
    torch.testing.assert_close(layer(x).float(), expected, atol=0.02, rtol=0.02)
    layer.repack()
    assert layer.repacked
    torch.testing.assert_close(layer(x).float(), expected, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("rows", [1, 64, 700])
def test_tinygemm_is_used_without_triton(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "choose", lambda *_: Choice(reference.int4_matmul, False, "no Triton"))
    weight, x = torch.randn(160, 256) * 0.02, torch.randn(rows, 256, device="cuda").bfloat16()
    backend = choose_backend(SCHEMES["int4"], torch.bfloat16, "cuda")
    assert backend.name.startswith("tinygemm"), backend.name
    layer = make_layer(SCHEMES["int4"], weight, backend)
    layer.repack()
    assert layer.repacked
    torch.testing.assert_close(layer(x), make_layer(SCHEMES["int4"], weight, PLAIN)(x), atol=0.02, rtol=0.02)


def test_codes_in_torchs_order_are_read_back() -> None:
    """As they are read from files of torchao."""
    codes = torch.randint(0, 16, (24, 384), dtype=torch.uint8, device="cuda")
    found = from_gpu_order(tinygemm.convert(codes).cpu())
    assert torch.equal(found, reference.pack_codes(codes.cpu().view(24, 3, 128)))


def make_layer(scheme: Scheme, weight: torch.Tensor, backend: MatmulBackend) -> QuantizedLinear:
    layer = quantized_operations(scheme, nn, backend).Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.load_state_dict(scheme.quantize(weight))
    return layer.cuda()
