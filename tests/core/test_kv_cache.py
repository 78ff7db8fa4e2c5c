"""A quantised cache: near what was written, the same whatever is beside it, and `gumbel` draws as `ar`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.decoding.loop import decode
from lumina_core.decoding.request import Request
from lumina_core.decoding.settings import NEW_DRAFTS, DecodeSettings
from lumina_core.kernels.kv_tensor import INT4, INT8, KV_CACHES, KVTensor, int4_groups
from lumina_core.kernels.select import Choice
from lumina_core.kernels.window_state import Sampling
from lumina_core.model import run_kernels
from lumina_core.model.kv_cache import KVCache
from lumina_core.model.run_kernels import RunKernels
from lumina_core.model.transformer import Transformer

from .toys import toy_transformer, toy_vocabulary

ROWS, LENGTH, HEADS, DIM = SHAPE = (3, 20, 2, 16)
CODES, GRID_H, GRID_W = 64, 12, 4
PROMPTS = ((20, 21, 22, 4), (23, 4), (24, 25, 26, 27, 28, 29, 4))
GIVEN = torch.randint(0, CODES, (len(PROMPTS), 5, GRID_W), generator=torch.Generator().manual_seed(1))
SETTINGS = {
    "sampled": DecodeSettings(cfg_scale=3.0, top_k=40, temperature=0.9, seed=5, kv_cache="int8"),
    "unguided": DecodeSettings(cfg_scale=1.0, top_k=40, temperature=0.9, seed=6, kv_cache="int8"),
    "greedy": DecodeSettings(cfg_scale=3.0, top_k=1, kv_cache="int8"),
    "four bits": DecodeSettings(cfg_scale=3.0, top_k=40, temperature=0.9, seed=5, kv_cache="int4"),
}
QUANTISED = (INT8, INT4)


@pytest.fixture(scope="module")
def transformer() -> Transformer:
    return toy_transformer(CODES, hidden=32, spread=2.0)


def empty(kind: str, dtype: torch.dtype = torch.float32, head_dim: int = DIM) -> KVTensor:
    return KVTensor.empty(kind, (*SHAPE[:-1], head_dim), dtype, "cpu", by_head=True)


def filled(stored: KVTensor, values: Tensor) -> KVTensor:
    """Keys with values [rows,length,heads,dim] in them, written in one go."""
    stored.write(torch.arange(ROWS)[:, None], torch.arange(LENGTH)[None], values)
    return stored


def random_values(seed: int = 0) -> Tensor:
    """Heads and tokens of very different size."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPE, generator=generator) * 10 ** torch.randn(*SHAPE[:-1], 1, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_is_off_by_half_a_step_of_its_own_head_and_token(dtype: torch.dtype) -> None:
    written = random_values().to(dtype)
    found = filled(empty(INT8, dtype), written).read(LENGTH, dtype)
    step = written.float().abs().amax(-1, keepdim=True) / 127
    rounding = 0.0 if dtype == torch.float32 else 2.0**-8
    assert found.dtype == dtype
    error = (found.float() - written.float()).abs()
    assert (error <= 0.501 * step + rounding * found.float().abs()).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [16, 64, 96, 128])
def test_int4_is_off_by_half_a_step_of_its_own_group(dtype: torch.dtype, head_dim: int) -> None:
    shape = (*SHAPE[:-1], head_dim)
    written = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + 1).to(dtype)
    found = filled(empty(INT4, dtype, head_dim), written).read(LENGTH, dtype)
    grouped = written.float().unflatten(-1, (int4_groups(head_dim), -1))
    low, high = grouped.aminmax(dim=-1, keepdim=True)
    # Scale and lowest value are rounded to bfloat16, the result to its own dtype.
    allowed = (0.51 * (high - low) / 15 + 2.0**-8 * (low.abs() + high - low)).expand_as(grouped).flatten(-2)
    assert found.dtype == dtype
    error = (found.float() - written.float()).abs()
    assert (error <= allowed + (2.0**-8 * found.float().abs() if dtype != torch.float32 else 0)).all()


def test_groups_of_int4_are_at_most_32_values_and_in_one_half() -> None:
    assert [int4_groups(size) for size in (2, 16, 64, 80, 96, 128, 256)] == [2, 2, 2, 4, 4, 4, 8]


@pytest.mark.parametrize("kv_cache", QUANTISED)
@pytest.mark.parametrize("size", [0.0, 1e-42, 1e-30, 1e30])
def test_extreme_values_stay_finite_and_near(size: float, kv_cache: str) -> None:
    written = random_values().sign() * size
    found = filled(empty(kv_cache), written).read(LENGTH, torch.float32)
    torch.testing.assert_close(found, written, rtol=0.01, atol=1e-37)


@pytest.mark.parametrize("kv_cache", KV_CACHES)
def test_what_was_not_written_is_zero_and_only_so_many_slots_are_read(kv_cache: str) -> None:
    stored = empty(kv_cache)
    stored.write(torch.tensor([[1]]), torch.tensor([[3]]), torch.ones(1, 1, HEADS, DIM))
    found = stored.read(5, torch.float32)
    assert found.shape == (ROWS, 5, HEADS, DIM)
    torch.testing.assert_close(found[1, 3], torch.ones(HEADS, DIM), rtol=0.01, atol=0)
    assert int(found.count_nonzero()) == HEADS * DIM


@pytest.mark.parametrize("kv_cache", QUANTISED)
def test_a_token_is_stored_the_same_whatever_is_written_beside_it(kv_cache: str) -> None:
    written = random_values()
    together, alone = filled(empty(kv_cache), written), empty(kv_cache)
    for values in (random_values(1)[:1, :1], written[1:2, 7:8]):
        alone.write(torch.tensor([[1]]), torch.tensor([[7]]), values)
    one, other = (stored.read(LENGTH, torch.float32)[1, 7] for stored in (alone, together))
    assert torch.equal(one, other)


@pytest.mark.parametrize("kv_cache", KV_CACHES)
def test_a_copied_row_is_its_source(kv_cache: str) -> None:
    stored = filled(empty(kv_cache), random_values())
    before = stored.read(LENGTH, torch.float32).clone()
    stored.copy_row(2, 0, 6)
    found = stored.read(LENGTH, torch.float32)
    assert torch.equal(found[0, :6], before[2, :6])
    assert torch.equal(found[0, 6:], before[0, 6:]) and torch.equal(found[1:], before[1:])


@pytest.mark.parametrize("kv_cache", KV_CACHES)
def test_a_cache_takes_the_bytes_it_says(transformer: Transformer, kv_cache: str) -> None:
    config = transformer.config
    for dtype in (torch.float32, torch.bfloat16):
        cache = KVCache(config, 2, LENGTH, dtype=dtype, device="cpu", kv_cache=kv_cache)
        tensors = [tensor for layer in cache.layers for part in (layer.keys, layer.values) for tensor in part.tensors]
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
        stored = sum(storage.nbytes() for storage in storages.values())
        assert KVCache.bytes_needed(config, 2, LENGTH, dtype, kv_cache) == stored


def test_int8_takes_half_of_bf16_and_a_scale_and_int4_less_than_a_third() -> None:
    config = TransformerConfig(171_385, 4096, 11_008, 32, 32, 32, 128, 10_240)
    plain, int8, int4 = (KVCache.bytes_needed(config, 2, 9312, torch.bfloat16, kv) for kv in KV_CACHES)
    assert int8 / plain == (128 + 4) / 256
    assert int4 / plain == (64 + 4 * 4) / 256


def drawn(transformer: Transformer, settings: DecodeSettings, given: Tensor | None = None, picture: int = -1) -> Tensor:
    """The pictures of all prompts, or of one alone."""
    prompts = PROMPTS if picture < 0 else PROMPTS[picture : picture + 1]
    return decode(transformer, toy_vocabulary(CODES), Request(prompts, GRID_H, GRID_W, given, settings)).codes


@pytest.mark.parametrize("given", [None, GIVEN], ids=["nothing given", "rows of each"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_gumbel_is_ar(transformer: Transformer, settings: str, given: Tensor | None) -> None:
    expected = drawn(transformer, replace(SETTINGS[settings], decoder="ar"), given)
    for window, way in zip((1, 3, 7, 26), NEW_DRAFTS, strict=True):
        found = drawn(transformer, replace(SETTINGS[settings], window_size=window, new_drafts=way), given)
        assert torch.equal(found, expected), (window, way)


@pytest.mark.parametrize("decoder", ["gumbel", "coupled"])
def test_picture_k_is_the_picture_of_seed_plus_k_alone(transformer: Transformer, decoder: str) -> None:
    settings = replace(SETTINGS["sampled"], decoder=decoder)
    together = drawn(transformer, settings)
    for k in range(len(PROMPTS)):
        assert torch.equal(drawn(transformer, replace(settings, seed=settings.seed + k), picture=k)[0], together[k])


@pytest.mark.parametrize(("kv_cache", "dtype"), [("auto", torch.float32), ("int8", torch.int8), ("int4", torch.uint8)])
def test_the_engine_stores_its_cache_as_set(
    transformer: Transformer, monkeypatch: pytest.MonkeyPatch, kv_cache: str, dtype: torch.dtype
) -> None:
    read: set[torch.dtype] = set()
    plain_read = KVTensor.chunk

    def noted(stored: KVTensor, index: int, scratch: Tensor) -> Tensor:
        read.add(stored.values.dtype)
        return plain_read(stored, index, scratch)

    monkeypatch.setattr(KVTensor, "chunk", noted)
    drawn(transformer, replace(SETTINGS["sampled"], kv_cache=kv_cache))
    assert read == {dtype}


def test_logits_are_near_those_of_the_plain_cache(transformer: Transformer) -> None:
    ids = torch.randint(32, 32 + CODES, (2, 30), generator=torch.Generator().manual_seed(0))
    plain, int8, int4 = (
        transformer(
            ids,
            transformer.make_cache(2, 30, kv_cache),
            torch.arange(30).expand(2, -1),
        )
        for kv_cache in KV_CACHES
    )
    assert 0 < (int8 - plain).norm() < 0.05 * plain.norm()
    assert (int8 - plain).norm() < (int4 - plain).norm() < 0.3 * plain.norm()


def test_a_cpu_runs_the_references(transformer: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    tested: list[str] = []
    choose = run_kernels.choose

    def noted(kernel: str, *arguments: Any) -> Choice:
        tested.append(kernel)
        return choose(kernel, *arguments)

    monkeypatch.setattr(run_kernels, "choose", noted)
    kernels = transformer.choose_kernels(Sampling(CODES), "int8", 4, 8)
    assert replace(kernels, attention=RunKernels.attention) == RunKernels(width=4, in_chunks=True)
    assert str(kernels.attention) == "torch (in chunks, as on every CPU)"
    assert "window_attention" not in tested
    monkeypatch.setattr(Transformer, "dtype", torch.bfloat16)
    kernels = transformer.choose_kernels(Sampling(CODES), "int8", 4, 8)
    assert str(kernels.attention) == "torch (in chunks, as on every CPU)" and kernels.blocks is None
