"""A cache in 8 or 4 bits: near what was written, the same whatever is beside it, and `gumbel` draws as `ar`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.decoding.settings import NEW_DRAFTS, DecodeSettings
from lumina_core.kernels import reference
from lumina_core.kernels.kv_tensor import Stored
from lumina_core.model import make_cache
from lumina_core.model.kv_cache import KVCache
from lumina_core.model.kv_store import INT4, INT8, KV_CACHES, Store, int4_groups, make_store
from lumina_core.model.make_cache import new_cache
from lumina_core.model.transformer import Transformer
from lumina_core.pipeline import Request, draw

from .toys import toy_transformer, toy_vocabulary

LAYERS, ROWS, LENGTH, HEADS, DIM = 2, 3, 20, 2, 16
SHAPE = (LAYERS, ROWS, LENGTH, HEADS, DIM)
CODES, GRID_H, GRID_W = 64, 12, 4
PROMPTS = ((20, 21, 22, 4), (23, 4), (24, 25, 26, 27, 28, 29, 4))
GIVEN = torch.randint(0, CODES, (len(PROMPTS), 5, GRID_W), generator=torch.Generator().manual_seed(1))
SETTINGS = {
    "sampled": DecodeSettings(cfg_scale=3.0, top_k=40, temperature=0.9, seed=5, kv_cache="int8"),
    "unguided": DecodeSettings(cfg_scale=1.0, top_k=40, temperature=0.9, seed=6, kv_cache="int8"),
    "greedy": DecodeSettings(cfg_scale=3.0, top_k=1, kv_cache="int8"),
    "four bits": DecodeSettings(cfg_scale=3.0, top_k=40, temperature=0.9, seed=5, kv_cache="int4"),
}
FEW_BITS = (INT8, INT4)


@pytest.fixture(scope="module")
def transformer() -> Transformer:
    return toy_transformer(CODES, hidden=32, spread=2.0)


def filled(store: Store, numbers: Tensor) -> Store:
    """A store with numbers [layers,rows,length,heads,dim] in it, written in one go."""
    for layer, every in enumerate(numbers):
        store.write(layer, torch.arange(every.shape[0] * every.shape[1]), every.flatten(0, 1))
    return store


def numbers(seed: int = 0) -> Tensor:
    """Heads and tokens of very different size."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPE, generator=generator) * 10 ** torch.randn(*SHAPE[:-1], 1, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_off_by_half_a_step_of_its_own_head_and_token(dtype: torch.dtype) -> None:
    written = numbers().to(dtype)
    store = filled(make_store("int8", SHAPE, dtype, "cpu"), written)
    step = written.float().abs().amax(-1, keepdim=True) / 127
    rounding = 0.0 if dtype == torch.float32 else 2.0**-8
    for layer in range(LAYERS):
        found = store.read(layer, LENGTH)
        assert found.dtype == dtype
        error = (found.float() - written[layer].float()).abs()
        assert (error <= 0.501 * step[layer] + rounding * found.float().abs()).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [16, 64, 96, 128])
def test_in_four_bits_off_by_half_a_step_of_its_own_group(dtype: torch.dtype, head_dim: int) -> None:
    shape = (*SHAPE[:-1], head_dim)
    written = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + 1).to(dtype)
    store, groups = filled(make_store(INT4, shape, dtype, "cpu"), written), int4_groups(head_dim)
    grouped = written.float().unflatten(-1, (groups, -1))
    low, high = grouped.aminmax(dim=-1, keepdim=True)
    # Scale and lowest number are rounded to bfloat16, the result to its own format.
    allowed = (0.51 * (high - low) / 15 + 2.0**-8 * (low.abs() + high - low)).expand_as(grouped).flatten(-2)
    for layer in range(LAYERS):
        found = store.read(layer, LENGTH)
        assert found.dtype == dtype
        error = (found.float() - written[layer].float()).abs()
        assert (error <= allowed[layer] + (2.0**-8 * found.float().abs() if dtype != torch.float32 else 0)).all()


def test_groups_of_four_bits_are_at_most_32_numbers_and_in_one_half() -> None:
    assert [int4_groups(size) for size in (2, 16, 64, 80, 96, 128, 256)] == [2, 2, 2, 4, 4, 4, 8]


@pytest.mark.parametrize("kv_cache", FEW_BITS)
@pytest.mark.parametrize("size", [0.0, 1e-42, 1e-30, 1e30])
def test_extreme_numbers_stay_finite_and_near(size: float, kv_cache: str) -> None:
    written = numbers().sign() * size
    found = filled(make_store(kv_cache, SHAPE, torch.float32, "cpu"), written).read(0, LENGTH)
    torch.testing.assert_close(found, written[0], rtol=0.01, atol=1e-37)


@pytest.mark.parametrize("kv_cache", KV_CACHES)
def test_what_was_not_written_is_zero_and_only_what_is_asked_for_is_read(kv_cache: str) -> None:
    store = make_store(kv_cache, SHAPE, torch.float32, "cpu")
    store.write(1, torch.tensor([LENGTH + 3]), torch.ones(1, HEADS, DIM))
    found = store.read(1, 5)
    assert found.shape == (ROWS, 5, HEADS, DIM)
    torch.testing.assert_close(found[1, 3], torch.ones(HEADS, DIM), rtol=0.01, atol=0)
    assert int(found.count_nonzero()) == HEADS * DIM
    assert not store.read(0, LENGTH).any()


@pytest.mark.parametrize("kv_cache", FEW_BITS)
def test_a_token_is_stored_the_same_whatever_is_written_beside_it(kv_cache: str) -> None:
    written = numbers()
    together = filled(make_store(kv_cache, SHAPE, torch.float32, "cpu"), written)
    alone = make_store(kv_cache, SHAPE, torch.float32, "cpu")
    alone.write(0, torch.tensor([LENGTH + 7]), numbers(1)[0, 0, :1])
    alone.write(0, torch.tensor([LENGTH + 7]), written[0, 1, 7:8])
    assert torch.equal(alone.read(0, LENGTH)[1, 7], together.read(0, LENGTH)[1, 7])


@pytest.mark.parametrize("kv_cache", FEW_BITS)
def test_a_copied_row_is_its_source(kv_cache: str) -> None:
    store = filled(make_store(kv_cache, SHAPE, torch.float32, "cpu"), numbers())
    before = store.read(1, LENGTH).clone()
    store.copy_row(2, 0, 6)
    found = store.read(1, LENGTH)
    assert torch.equal(found[0, :6], before[2, :6])
    assert torch.equal(found[0, 6:], before[0, 6:]) and torch.equal(found[1:], before[1:])


@pytest.mark.parametrize("kv_cache", KV_CACHES)
def test_a_cache_takes_the_bytes_it_says(transformer: Transformer, kv_cache: str) -> None:
    config = transformer.config
    for dtype in (torch.float32, torch.bfloat16):
        cache = KVCache(config, 2, LENGTH, dtype=dtype, device="cpu", kv_cache=kv_cache)
        stored = cache.keys.nbytes + cache.values.nbytes
        assert KVCache.bytes_needed(config, 2, LENGTH, dtype, kv_cache) == stored


def test_few_bits_take_half_of_bf16_and_a_scale_or_less_than_a_third() -> None:
    config = TransformerConfig(171_385, 4096, 11_008, 32, 32, 32, 128, 10_240)
    plain, int8, int4 = (KVCache.bytes_needed(config, 2, 9312, torch.bfloat16, kv) for kv in KV_CACHES)
    assert int8 / plain == (128 + 4) / 256
    assert int4 / plain == (64 + 4 * 4) / 256


def drawn(transformer: Transformer, settings: DecodeSettings, given: Tensor | None = None, picture: int = -1) -> Tensor:
    """The pictures of all prompts, or of one alone."""
    prompts = PROMPTS if picture < 0 else PROMPTS[picture : picture + 1]
    return draw(transformer, toy_vocabulary(CODES), Request(prompts, GRID_H, GRID_W, given, settings)).codes


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


@pytest.mark.parametrize(
    ("kv_cache", "numbers"), [("auto", torch.float32), ("int8", torch.int8), ("int4", torch.uint8)]
)
def test_the_engine_keeps_its_cache_as_asked(
    transformer: Transformer, monkeypatch: pytest.MonkeyPatch, kv_cache: str, numbers: torch.dtype
) -> None:
    read: list[Stored] = []
    plain_read = Stored.read

    def noted(stored: Stored, length: int, dtype: torch.dtype) -> Tensor:
        read.append(stored)
        return plain_read(stored, length, dtype)

    monkeypatch.setattr(Stored, "read", noted)
    drawn(transformer, replace(SETTINGS["sampled"], kv_cache=kv_cache))
    assert {stored.numbers.dtype for stored in read} == {numbers}


def test_logits_are_near_those_of_the_plain_cache(transformer: Transformer) -> None:
    ids = torch.randint(32, 32 + CODES, (2, 30), generator=torch.Generator().manual_seed(0))
    plain, int8, int4 = (
        transformer(
            ids,
            KVCache(transformer.config, 2, 30, dtype=torch.float32, device="cpu", kv_cache=kv_cache),
            torch.arange(30).expand(2, -1),
        )
        for kv_cache in KV_CACHES
    )
    assert 0 < (int8 - plain).norm() < 0.05 * plain.norm()
    assert (int8 - plain).norm() < (int4 - plain).norm() < 0.3 * plain.norm()


@pytest.mark.parametrize("kv_cache", KV_CACHES)
def test_a_cache_that_attends_by_itself_gives_the_same(transformer: Transformer, kv_cache: str) -> None:
    ids = torch.randint(32, 32 + CODES, (2, 30), generator=torch.Generator().manual_seed(0))
    input_pos = torch.tensor([[3], [11]]) + torch.arange(6)
    found = []
    for attend in (None, reference.window_attention):
        cache = KVCache(
            transformer.config,
            2,
            30,
            dtype=torch.float32,
            device="cpu",
            kv_cache=kv_cache,
            window_attention=attend,
        )
        transformer(ids, cache, torch.arange(30).expand(2, -1))
        found.append(transformer(ids[:, :6], cache, input_pos))
    assert torch.equal(*found)


def test_a_cpu_uses_no_kernel(transformer: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_cache, "choose", lambda *_: pytest.fail("tried"))
    cache = new_cache(transformer, 1, 8, "int8", 4)
    assert cache.window_attention is None and cache.block_kernels is None
    monkeypatch.undo()
    monkeypatch.setattr(Transformer, "dtype", torch.bfloat16)
    cache = new_cache(transformer, 1, 8, "int8", 4)
    assert cache.window_attention is None and cache.block_kernels is None
