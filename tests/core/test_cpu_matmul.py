"""torch's own matmuls with quantised weights on a CPU, and attention over a cache in chunks."""

from __future__ import annotations

import platform
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lumina_core.decoding.loop import decode
from lumina_core.decoding.request import Request
from lumina_core.decoding.settings import MAX_WINDOW, DecodeSettings
from lumina_core.kernels import chunked_attention as chunked
from lumina_core.kernels import reference
from lumina_core.kernels.chunked_attention import CHUNK, Chunks, chunked_attention
from lumina_core.kernels.kv_tensor import KV_CACHES, KVTensor
from lumina_core.model.transformer import Transformer
from lumina_core.quant import cpu_matmul
from lumina_core.quant.cpu_matmul import CPU_SCHEMES, MAX_INT4_TOKENS, MAX_INT8_TOKENS, cpu_backend
from lumina_core.quant.linear import PLAIN, QuantizedLinear
from lumina_core.quant.schemes import SCHEMES, quantize

from .toys import toy_transformer, toy_vocabulary

IN, OUT = 384, 192
needs_kernel = pytest.mark.skipif(
    any(cpu_backend(scheme).name.startswith("plain") for scheme in CPU_SCHEMES), reason=cpu_backend("int4").name
)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layers(scheme: str, inputs: int = IN, outputs: int = OUT) -> tuple[QuantizedLinear, QuantizedLinear]:
    """A layer with torch's matmul and one with the same weight by plain torch."""
    packed = quantize(SCHEMES[scheme], randn(outputs, inputs), "cpu", "weight")
    made = []
    for backend in (cpu_backend(scheme), PLAIN):
        layer = QuantizedLinear(SCHEMES[scheme], backend, inputs, outputs)
        layer.load_state_dict(packed)
        layer.repack()
        made.append(layer)
    return made[0], made[1]


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scheme", CPU_SCHEMES)
def test_it_is_the_plain_matmul_but_for_bfloat16(scheme: str, dtype: torch.dtype) -> None:
    layer, plain = layers(scheme)
    x = randn(2, 5, IN, seed=1).to(dtype)
    found, expected = layer(x), plain(x.float())
    assert found.dtype == dtype and not torch.equal(found.float(), expected)
    assert (found.float() - expected).norm() < 0.005 * expected.norm()


@needs_kernel
@pytest.mark.parametrize("scheme", CPU_SCHEMES)
def test_a_row_is_the_same_whatever_is_beside_it(scheme: str) -> None:
    layer, _ = layers(scheme)
    x = randn(1, MAX_WINDOW, IN, seed=2)
    whole = layer(x)
    for first, rows in ((0, 1), (3, 1), (5, 2), (9, 3), (60, 8), (64, 64)):
        assert torch.equal(layer(x[:, first : first + rows]), whole[:, first : first + rows])
    assert torch.equal(layer(x.expand(3, -1, -1)), whole.expand(3, -1, -1))


def test_every_window_is_multiplied_by_one_kernel() -> None:
    assert min(MAX_INT4_TOKENS, MAX_INT8_TOKENS) >= MAX_WINDOW


@needs_kernel
def test_repacked_rows_are_the_weight() -> None:
    layer, plain = layers("int4", outputs=320)
    like = torch.empty(0)
    for first, end in ((0, 320), (0, 1), (63, 65), (70, 190), (319, 320)):
        assert torch.equal(layer.weight_rows(first, end, like), plain.weight_rows(first, end, like))
    assert layer.repacked and not torch.equal(layer.packed, plain.packed)


@needs_kernel
@pytest.mark.parametrize("scheme", CPU_SCHEMES)
def test_a_prefill_is_multiplied_with_the_weight_dequantised(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, plain = layers(scheme)
    x = randn(1, MAX_INT4_TOKENS + 1, IN, seed=3)
    monkeypatch.setattr(cpu_matmul, "_has_bf16", lambda: False)
    assert torch.equal(layer(x), plain(x))
    monkeypatch.setattr(cpu_matmul, "_has_bf16", lambda: True)
    assert torch.equal(layer(x), plain(x.bfloat16()).float())


@needs_kernel
def test_a_weight_of_another_shape_is_multiplied_by_plain_torch() -> None:
    for scheme, inputs, outputs in (("int4", IN, 96), ("int4", 200, 192), ("int8", 172, 64)):
        layer, plain = layers(scheme, inputs, outputs)
        x = randn(3, inputs)
        assert torch.equal(layer(x), plain(x)) and layer.backend_name.startswith("plain (no weight of this shape")


@pytest.mark.parametrize("scheme", ["int8", pytest.param("int4", marks=needs_kernel)])
def test_a_kernel_that_fails_or_computes_wrong_is_not_used(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(x: Tensor, *_: object) -> Tensor:
        return x.new_zeros(len(x), 2 * cpu_matmul.BLOCK_OUTPUTS)

    monkeypatch.setattr(cpu_matmul, "CAPABILITIES", (torch.backends.cpu.get_cpu_capability(),))
    monkeypatch.setattr(cpu_matmul, "multiply_int4", wrong)
    monkeypatch.setattr(cpu_matmul, "multiply_int8", wrong)
    backend = cpu_backend(scheme)
    assert backend.multiply is PLAIN.multiply and "the self-test found an error" in backend.name
    monkeypatch.setattr(cpu_matmul, "CAPABILITIES", ("AVX9",))
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert "is for AVX9 and Arm, not" in cpu_backend(scheme).name
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert "the self-test found an error" in cpu_backend(scheme).name
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    assert "a plain loop on Windows" in cpu_backend(scheme).name


def test_rounding_that_depends_on_the_rows_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then every forward runs more rows, and the width of a window does not follow seconds."""
    exact = cpu_matmul.multiply_int8
    monkeypatch.setattr(
        cpu_matmul, "multiply_int8", lambda x, *weight: exact(x, *weight) * (1.0 if len(x) > 1 else 1.01)
    )
    assert not cpu_backend("int8").alike


def cache_of(kind: str, length: int, heads: int = 2, dim: int = 16) -> tuple[KVTensor, KVTensor]:
    """Keys and values of two rows."""
    made = []
    for seed in (1, 2):
        stored = KVTensor.empty(kind, (2, length, heads, dim), torch.float32, "cpu", by_head=True)
        stored.write(torch.arange(2)[:, None], torch.arange(length)[None], randn(2, length, heads, dim, seed=seed))
        made.append(stored)
    return made[0], made[1]


def attend(query: Tensor, cache: tuple[KVTensor, KVTensor], input_pos: Tensor, kv_len: int) -> Tensor:
    chunks = Chunks.of(input_pos, kv_len, cache[0], *query.shape[2:], query.dtype)
    return chunked_attention(query, *cache, chunks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", KV_CACHES)
def test_chunks_are_the_whole_attention(kind: str, dtype: torch.dtype) -> None:
    """With grouped heads, a last chunk that the cache does not fill, and rows at different positions."""
    cache = cache_of(kind, 3 * CHUNK + 40)
    input_pos = torch.tensor([[5, 6, 7, 8, 9], [3 * CHUNK + 3 + k for k in range(5)]])
    query = randn(2, 5, 4, 16, seed=3).to(dtype)
    expected = reference.window_attention(query.float(), *cache, input_pos, 3 * CHUNK + 40).double()
    found = attend(query, cache, input_pos, 3 * CHUNK + 40)
    assert found.dtype == dtype
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2.0**-7, torch.float64: 1e-5}[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", KV_CACHES)
def test_a_token_attends_the_same_in_every_window_batch_and_length_of_cache(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = cache_of(kind, 5 * CHUNK)
    input_pos = torch.arange(24)[None] + torch.tensor([[2 * CHUNK - 7], [40]])
    query = randn(2, 24, 4, 16, seed=3)
    whole = attend(query, cache, input_pos, 2 * CHUNK + 64)
    for row, first, width in ((0, 0, 1), (0, 6, 2), (0, 7, 3), (1, 3, 1), (1, 0, 24)):
        alone = tuple(part.part(row, 1) for part in cache)
        window = slice(first, first + width)
        for kv_len in (2 * CHUNK + 17, 5 * CHUNK):
            found = attend(query[row : row + 1, window], alone, input_pos[row : row + 1, window], kv_len)
            assert torch.equal(found[0], whole[row, window])
    monkeypatch.setattr(chunked, "LOGIT_BYTES", 1)
    assert torch.equal(attend(query, cache, input_pos, 2 * CHUNK + 64), whole)


def test_attention_whose_rounding_depends_on_the_width_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a window's width does not follow seconds, which differ from run to run."""
    test, bmm = chunked.attention_rounds_alike.__wrapped__, torch.bmm
    assert quantised("int8").rounds_alike == test(64)
    monkeypatch.setattr(torch, "bmm", lambda left, right: bmm(left, right) * (1.0 if left.shape[1] > 4 else 1.001))
    assert not test(64)
    monkeypatch.setattr("lumina_core.model.transformer.attention_rounds_alike", test)
    assert not quantised("int8").rounds_alike


def quantised(scheme: str) -> Transformer:
    """A toy with quantised weights, of shapes that torch's matmul takes."""
    model = toy_transformer(64, hidden=128, spread=2.0)
    for block in model.blocks:
        for part in (block.self_attn, block.mlp):
            for name, linear in list(part.named_children()):
                if isinstance(linear, torch.nn.Linear):
                    layer = QuantizedLinear(
                        SCHEMES[scheme], cpu_backend(scheme), linear.in_features, linear.out_features
                    )
                    layer.load_state_dict(quantize(SCHEMES[scheme], linear.weight.detach(), "cpu", name))
                    layer.repack()
                    setattr(part, name, layer)
    return model


@needs_kernel
@pytest.mark.parametrize(("scheme", "kv_cache"), [("int4", "int8"), ("int8", "int4"), ("int8", "auto")])
def test_gumbel_draws_what_ar_draws_at_every_window(scheme: str, kv_cache: str) -> None:
    transformer, vocabulary = quantised(scheme), toy_vocabulary(64)
    assert transformer.rounds_alike
    settings = DecodeSettings(cfg_scale=3.0, top_k=40, seed=5, kv_cache=kv_cache, window_size=1, decoder="ar")
    request = Request([[20, 21, 4], [22, 4]], 8, 8, None, settings)
    expected = decode(transformer, vocabulary, request)
    for width, adapt in ((1, False), (3, False), (16, False), (32, True)):
        other = replace(settings, decoder="gumbel", window_size=width, adapt_window=adapt)
        found = decode(transformer, vocabulary, replace(request, settings=other))
        assert torch.equal(found.codes, expected.codes)
        assert found.log_likelihood == expected.log_likelihood
