"""A window's forward in few kernels: what the blocks give one operation at a time, and the same pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lumina_core.decoding.settings import DecodeSettings
from lumina_core.kernels import reference
from lumina_core.kernels.select import Choice, Sample
from lumina_core.kernels.tiles import attention_tile, matmul_tile, padded_chunks, split_count, split_groups
from lumina_core.model import fused, make_cache
from lumina_core.model.kv_cache import BlockKernels
from lumina_core.model.kv_store import KV_CACHES
from lumina_core.model.layers import HeadNorm
from lumina_core.model.load import empty_transformer, linear_shapes
from lumina_core.model.make_cache import attention_samples, new_cache
from lumina_core.model.transformer import Transformer
from lumina_core.pipeline import Request, draw
from lumina_core.quant.linear import Kernel, quantized_operations
from lumina_core.quant.schemes import SCHEMES, Scheme
from lumina_core.quant.triton_matmul import matmul_samples
from lumina_core.quant.weights import WeightsPlan
from lumina_core.timing.synthetic import SYNTHETIC

from ..kernel_cases import forward_model, window_states
from .toys import toy_transformer, toy_vocabulary

CODES, BF16 = 64, torch.bfloat16
TWINS = BlockKernels(reference.place_heads, reference.silu_gate, reference.add_norm)
KERNELS = ("window_attention", "place_heads", "silu_gate", "add_norm")


def model(dtype: torch.dtype = torch.float32, **changes: Any) -> Transformer:
    """A toy whose norms are not the identity; its heads may be grouped, and their norms be several."""
    return forward_model(toy_transformer(CODES, hidden=64, heads=4), dtype, **changes)


def states_of(transformer: Transformer, kv_cache: str, kernels: BlockKernels | None) -> tuple[Tensor, Tensor]:
    return window_states(transformer, kv_cache, reference.window_attention, kernels)


@pytest.mark.parametrize("kv_cache", KV_CACHES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "changes", [{}, {"num_key_value_heads": 2}, {"model_parallel_size": 2}], ids=["plain", "grouped heads", "two norms"]
)
def test_states_are_those_of_the_blocks(kv_cache: str, dtype: torch.dtype, changes: dict[str, Any]) -> None:
    transformer = model(dtype, **changes)
    (states, keys), (expected, expected_keys) = (states_of(transformer, kv_cache, k) for k in (TWINS, None))
    assert states.shape == expected.shape and states.dtype == dtype
    assert torch.equal(states, expected) and torch.equal(keys, expected_keys)


def test_the_blocks_are_used_where_they_are_compiled_and_for_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    def noted(*arguments: Any) -> Any:
        used.append(arguments)
        return reference.silu_gate(*arguments)

    transformer = model()
    states_of(transformer, "int8", replace(TWINS, silu_gate=noted))
    assert len(used) == transformer.config.num_hidden_layers
    used.clear()
    monkeypatch.setattr(transformer, "compiled", True)
    states_of(transformer, "int8", replace(TWINS, silu_gate=noted))
    assert not used


def test_a_product_comes_in_its_splits_or_whole() -> None:
    def split(x: Tensor, layer: nn.Module) -> Tensor:
        return torch.stack((x[:, :4] @ weight[:, :4].T, x[:, 4:] @ weight[:, 4:].T))

    weight, x = torch.randn(3, 8), torch.randn(2, 8)
    plain = nn.Linear(8, 3, bias=False)
    plain.weight.data = weight
    kernel = Kernel("split", lambda x, layer: x @ weight.T, split)
    for layer, splits in (
        (plain, 1),
        (quantized_operations(SCHEMES["int8"], nn, kernel).Linear(8, 3), 2),
        (quantized_operations(SCHEMES["int8"], nn, replace(kernel, split=None)).Linear(8, 3), 1),
    ):
        sums = fused.partial_sums(layer, x)
        assert sums.shape == (splits, 2, 3)
        torch.testing.assert_close(reference.join(sums, torch.float32), x @ weight.T)


@pytest.fixture(autouse=True)
def nothing_chosen() -> Iterator[None]:
    """What is chosen in a test is forgotten behind it, and what was before it."""
    chosen = (make_cache._choose_attention, make_cache._choose_block_kernel)
    for choice in chosen:
        choice.forget()
    yield
    for choice in chosen:
        choice.forget()


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that are tried, as on a device that has them: twins, whose samples they must take."""
    found: list[str] = []

    def pick(kernel: str, device: torch.device, *samples: Callable[[], tuple[Any, ...]]) -> Choice:
        function = getattr(reference, kernel)
        for sample in samples:
            function(*sample())
        found.append(kernel)
        return Choice(function, "triton", "tried on this device")

    monkeypatch.setattr(make_cache, "choose", pick)
    return found


def test_a_device_with_the_kernels_tries_each_once_and_uses_it(tried: list[str]) -> None:
    transformer = model(torch.bfloat16)
    for _ in range(2):
        cache = new_cache(transformer, 1, 8, "int4", 4)
        assert cache.window_attention is reference.window_attention and cache.block_kernels == TWINS
    assert tried == list(KERNELS)


@pytest.mark.parametrize("missing", KERNELS)
def test_without_one_of_them_the_others_are_not_used_by_halves(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def pick(kernel: str, *_: Any) -> Choice:
        return Choice(getattr(reference, kernel), "eager" if kernel == missing else "triton", "tried")

    monkeypatch.setattr(make_cache, "choose", pick)
    cache = new_cache(model(torch.bfloat16), 1, 8, "int8", 4)
    assert cache.block_kernels is None
    assert (cache.window_attention is None) == (missing == "window_attention")


def test_norms_behind_the_products_are_not_for_the_kernels(tried: list[str]) -> None:
    cache = new_cache(model(torch.bfloat16, swin_norm=True), 1, 8, "int8", 4)
    assert cache.block_kernels is None and tried == ["window_attention"]


@pytest.mark.parametrize("decoder", ["gumbel", "coupled"])
@pytest.mark.parametrize("kv_cache", KV_CACHES)
def test_pictures_are_the_same(tried: list[str], decoder: str, kv_cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    transformer = model(torch.bfloat16)
    settings = DecodeSettings(decoder=decoder, cfg_scale=3.0, top_k=40, seed=5, kv_cache=kv_cache, window_size=6)
    request = Request([[20, 21, 4], [22, 4]], 8, 4, None, settings)
    drawn = partial(draw, transformer, toy_vocabulary(CODES), request)
    found = drawn().codes
    assert tried
    monkeypatch.setattr(make_cache, "KERNEL_FORMAT", torch.float64)
    assert torch.equal(found, drawn().codes)


def published_model(scheme: str | None, **changes: Any) -> Transformer:
    """One block of the 7B on meta, whose quantised matmuls come in splits."""
    config = replace(SYNTHETIC["7b"].transformer, num_hidden_layers=1, **changes)
    plan = WeightsPlan(torch.bfloat16, SCHEMES[scheme] if scheme else None)
    return empty_transformer(config, plan, kernel=Kernel("split", pytest.fail, split=pytest.fail))


@pytest.mark.parametrize(("scheme", "splits"), [("int4", (2, 1, 6)), (None, (1, 1, 1))])
def test_the_self_tests_of_a_block_have_the_splits_of_a_run(
    scheme: str | None, splits: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = {}

    def pick(kernel: str, device: torch.device, *samples: Sample) -> Choice:
        sums[kernel] = [sample()[kernel == "add_norm"] for sample in samples]
        return Choice(getattr(reference, kernel), "triton", "tried")

    monkeypatch.setattr(make_cache, "choose", pick)
    monkeypatch.setattr(Transformer, "device", torch.device("cpu"))
    make_cache._choose_block_kernels(published_model(scheme), "int8")
    shapes = {kernel: [tuple(one.shape) for one in parts] for kernel, parts in sums.items()}
    qkv, gate, down = splits
    assert shapes == {
        "place_heads": [(qkv, 5, 12_288)],
        "silu_gate": [(gate, 5, 22_016)],
        "add_norm": [(down, 5, 4096)],
    }
    for (one,) in sums.values():
        assert one.dtype == (torch.bfloat16 if len(one) == 1 else torch.float32)


@pytest.mark.parametrize(("length", "chunks"), [(9472, 16), (1024, 1), (1025, 2), (128, 1)])
@pytest.mark.parametrize("width", [1, 24, 64])
def test_the_self_tests_of_the_attention_join_as_many_chunks_as_a_run(length: int, chunks: int, width: int) -> None:
    config = replace(SYNTHETIC["7b"].transformer, num_attention_heads=2, num_key_value_heads=2)
    assert padded_chunks(length) == chunks
    samples = attention_samples(torch.device("cpu"), config, "int8", width, chunks)
    queries, joined = [], []
    for sample in samples:
        query, keys, _, positions, kv_len = sample()
        assert int(positions.max()) + 1 == kv_len <= keys.numbers.shape[1] and positions.min() >= 0
        queries.append(query.shape[1])
        joined.append(padded_chunks(kv_len))
    assert chunks in joined
    tiles = {attention_tile(tokens, torch.bfloat16) for tokens in range(1, width + 1)}
    assert tiles <= {attention_tile(tokens, torch.bfloat16) for tokens in queries}


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_the_self_tests_of_a_matmul_have_the_splits_and_tiles_of_a_run(scheme: Scheme) -> None:
    shapes = linear_shapes(SYNTHETIC["7b"].transformer)
    assert {split_count(*shape) for shape in shapes.values()} == {1, 2, 6}
    splits, tiles = set(), set()
    for sample in matmul_samples(scheme, "cpu", shapes.values()):
        rows, in_features, out_features = (
            sample.args[2],
            sample.keywords["in_features"],
            sample.keywords["out_features"],
        )
        splits.add(split_groups(in_features, matmul_tile(rows, in_features, out_features, BF16).splits)[0])
        tiles.add(matmul_tile(rows, in_features, out_features, BF16).rows)
        assert in_features < 4096
    assert splits == {1, 2, 6} and tiles == {matmul_tile(rows, 4096, 4096, BF16).rows for rows in range(1, 200)}


def test_a_weight_of_an_odd_shape_has_a_self_test_of_its_own() -> None:
    def inputs(*shapes: tuple[int, int]) -> set[int]:
        samples = matmul_samples(SCHEMES["int4"], "cpu", shapes)
        return {sample.keywords["in_features"] % 128 for sample in samples}

    assert inputs((4096, 64)) == {0} and inputs((4096, 64), (300, 64)) == {0, 44}


def test_head_norm_is_in_float32_and_rounded_once() -> None:
    norm, x = HeadNorm(2, 16), torch.randn(3, 4, 16).bfloat16()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    assert torch.equal(norm.bfloat16()(x), norm.float()(x.float()).bfloat16())
