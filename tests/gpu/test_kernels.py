"""Triton kernels give what their twins give on a GPU, at small and at the published model's sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lumina_core.kernels import reference
from lumina_core.kernels.samples import (
    add_sample,
    attention_sample,
    draw_sample,
    gate_sample,
    heads_sample,
    int4_sample,
    int8_sample,
    logits_sample,
)
from lumina_core.kernels.select import MODULES, Choice, choose, load, unusable
from lumina_core.quant import triton_matmul
from lumina_core.quant.linear import PLAIN, Kernel, QuantizedLinear, quantized_operations
from lumina_core.quant.schemes import SCHEMES, Scheme
from lumina_core.quant.triton_matmul import choose_kernel

from ..kernel_cases import LARGE, SMALL, clean

UNUSABLE = unusable("cuda") if torch.cuda.is_available() else "there is no CUDA device"
pytestmark = pytest.mark.skipif(bool(UNUSABLE), reason=UNUSABLE)
SAMPLES = {
    "window_attention": lambda: attention_sample("cuda", torch.bfloat16, kv_cache="int4", spoilt=False),
    "int4_matmul": lambda: int4_sample("cuda", torch.bfloat16),
    "int8_matmul": lambda: int8_sample("cuda", torch.bfloat16),
    "topk_cut": lambda: logits_sample("cuda"),
    "gumbel_draw": lambda: draw_sample("cuda"),
    "place_heads": lambda: heads_sample("cuda", torch.bfloat16, kv_cache="int4"),
    "silu_gate": lambda: gate_sample("cuda", torch.bfloat16),
    "add_norm": lambda: add_sample("cuda", torch.bfloat16),
}


@pytest.mark.parametrize("case", [*SMALL, *LARGE])
def test_kernel_gives_what_its_twin_gives(case: str) -> None:
    every = {**SMALL, **LARGE}
    assert every[case].difference("cuda") <= every[case].gpu_tolerance


@pytest.mark.parametrize("kernel", SAMPLES)
def test_kernel_stands_its_trial(kernel: str) -> None:
    assert kernel in MODULES
    choice = choose(kernel, "cuda", SAMPLES[kernel])
    assert choice.is_kernel, choice.reason


@pytest.mark.parametrize("width", [1, 4, 32])
def test_a_querys_result_does_not_depend_on_how_far_the_cache_is_read(width: int) -> None:
    query, keys, values, input_pos, kv_len = attention_sample(
        "cuda", torch.bfloat16, kv_cache="int8", filled=(1500, 700), width=width, length=2048
    )
    attend = load("window_attention")
    near = attend(query, keys, values, input_pos, kv_len)
    assert torch.equal(near, attend(query, keys, values, input_pos, 2048))


def test_attention_in_a_graph_follows_positions_that_change_on_the_device() -> None:
    sample = attention_sample("cuda", torch.bfloat16, kv_cache="int8", filled=(1500, 700), length=2048)
    query, keys, values, input_pos, _ = clean(sample)
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


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("rows", [1, 32, 65])
def test_a_quantised_layer_multiplies_by_the_kernel(scheme: Scheme, rows: int) -> None:
    weight, x = torch.randn(160, 256) * 0.02, torch.randn(2, rows, 256, device="cuda").bfloat16()
    kernel = choose_kernel(scheme, torch.bfloat16, "cuda")
    assert kernel.name.startswith("triton"), kernel.name
    found, expected = (make_layer(scheme, weight, each)(x).float() for each in (kernel, PLAIN))
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("rows", [1, 64, 700])
def test_torchs_own_product_is_there_where_triton_is_not(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_matmul, "choose", lambda *_: Choice(reference.int4_matmul, "eager", "no Triton"))
    weight, x = torch.randn(160, 256) * 0.02, torch.randn(rows, 256, device="cuda").bfloat16()
    kernel = choose_kernel(SCHEMES["int4"], torch.bfloat16, "cuda")
    assert kernel.name.startswith("tinygemm"), kernel.name
    layer = make_layer(SCHEMES["int4"], weight, kernel)
    layer.arrange()
    assert layer.arranged
    torch.testing.assert_close(layer(x), make_layer(SCHEMES["int4"], weight, PLAIN)(x), atol=0.02, rtol=0.02)


def make_layer(scheme: Scheme, weight: torch.Tensor, kernel: Kernel) -> QuantizedLinear:
    layer = quantized_operations(scheme, nn, kernel).Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.load_state_dict(scheme.quantize(weight))
    return layer.cuda()
