"""A window's forward with fused blocks: the same states and pictures as operation by operation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lumina_core.decoding.loop import decode
from lumina_core.decoding.request import Request
from lumina_core.decoding.settings import DecodeSettings
from lumina_core.kernels import reference
from lumina_core.kernels.draft_tree import DraftTree
from lumina_core.kernels.kv_tensor import KV_CACHES
from lumina_core.kernels.select import Choice, reference_of
from lumina_core.kernels.self_test import Sample
from lumina_core.kernels.tiles import attention_tile, matmul_tile, padded_chunks, split_count, split_groups
from lumina_core.kernels.window_state import NEW_DRAFTS, RULES, Sampling, WindowState
from lumina_core.model import fused, run_kernels
from lumina_core.model.layers import HeadNorm
from lumina_core.model.load import empty_transformer, linear_shapes
from lumina_core.model.run_kernels import BlockKernels, RunKernels, attention_samples
from lumina_core.model.transformer import Transformer
from lumina_core.quant.linear import MatmulBackend, quantized_operations
from lumina_core.quant.schemes import SCHEMES
from lumina_core.quant.select import SAMPLES, matmul_samples
from lumina_core.quant.weights import WeightsPlan
from lumina_core.timing.synthetic import SYNTHETIC

from ..kernel_cases import forward_model, window_states
from .toys import toy_transformer, toy_vocabulary

CODES, BF16 = 64, torch.bfloat16
OF_A_BLOCK = ("embed_window", "qkv_norm_rope_store", "silu_gate", "add_rms_norm")
FUSED = RunKernels(blocks=BlockKernels(*map(reference_of, OF_A_BLOCK)))
KERNELS = ("window_attention", *OF_A_BLOCK, "draw_window", "accept_window")
RUN = Sampling(CODES), "int8", 4, 8
Pick = Callable[..., Choice]


def model(dtype: torch.dtype = torch.float32, **changes: Any) -> Transformer:
    """A toy whose norms are not the identity; its heads may be grouped, and their norms be several."""
    return forward_model(toy_transformer(CODES, hidden=64, heads=4), dtype, **changes)


@pytest.mark.parametrize("kv_cache", KV_CACHES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "changes", [{}, {"num_key_value_heads": 2}, {"model_parallel_size": 2}], ids=["plain", "grouped heads", "two norms"]
)
def test_states_are_those_of_the_blocks(kv_cache: str, dtype: torch.dtype, changes: dict[str, Any]) -> None:
    transformer = model(dtype, **changes)
    (states, keys), (expected, expected_keys) = (window_states(transformer, kv_cache, k) for k in (FUSED, RunKernels()))
    assert states.shape == expected.shape and states.dtype == dtype
    assert torch.equal(states, expected) and torch.equal(keys, expected_keys)


def test_a_window_runs_by_the_fused_blocks_and_a_prompt_does_not() -> None:
    used = []

    def noted(*arguments: Any, **options: Any) -> Any:
        used.append(arguments)
        return reference.silu_gate(*arguments, **options)

    transformer = model()
    window_states(transformer, "int8", replace(FUSED, blocks=replace(FUSED.blocks, silu_gate=noted)))
    assert len(used) == transformer.config.num_hidden_layers


def test_a_matmul_returns_its_splits_or_one() -> None:
    def split(x: Tensor, layer: nn.Module, buffers: object) -> Tensor:
        return torch.stack((x[:, :4] @ weight[:, :4].T, x[:, 4:] @ weight[:, 4:].T))

    weight, x = torch.randn(3, 8), torch.randn(2, 8)
    plain = nn.Linear(8, 3, bias=False)
    plain.weight.data = weight
    backend = MatmulBackend("split", lambda x, layer: x @ weight.T, split)
    for layer, splits in (
        (plain, 1),
        (quantized_operations(SCHEMES["int8"], nn, backend).Linear(8, 3), 2),
        (quantized_operations(SCHEMES["int8"], nn, replace(backend, split=None)).Linear(8, 3), 1),
    ):
        sums = fused.partial_sums(layer, x)
        assert sums.shape == (splits, 2, 3)
        torch.testing.assert_close(reference.add_splits(sums, torch.float32), x @ weight.T)


@pytest.fixture
def choose_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[Pick], None]:
    """Sets what is chosen for a kernel: a function of its name, the device, and the samples."""
    return lambda pick: monkeypatch.setattr(run_kernels, "choose", pick)


@pytest.fixture
def tested(choose_by: Callable[[Pick], None]) -> list[str]:
    """The kernels that are tested, on a device that has them all: references, which must take the samples."""
    names: list[str] = []

    def pick(kernel: str, device: torch.device, samples: tuple[Sample, ...]) -> Choice:
        function = reference_of(kernel)
        for sample in samples:
            function(*sample(device))
        names.append(kernel)
        return Choice(function, True, "passed")

    choose_by(pick)
    return names


def places_drafts(rule: str, new_drafts: str, width: int) -> bool:
    """Whether a run keeps distributions of drafts, or draws drafts: with one token a forward it has none."""
    return width > 1 and (rule != "gumbel" or new_drafts == "guess")


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("new_drafts", NEW_DRAFTS)
@pytest.mark.parametrize("rule", RULES)
def test_a_device_with_the_kernels_tests_each_that_a_run_needs_and_uses_it(
    tested: list[str], rule: str, new_drafts: str, width: int
) -> None:
    kernels = model(BF16).choose_kernels(Sampling(CODES, rule, new_drafts), "int4", width, 8)
    attention = Choice(reference.window_attention, True, "passed")
    assert kernels == replace(FUSED, attention=attention, allocates=False, width=width)
    assert tested == [*KERNELS, *(["place_drafts"] if places_drafts(rule, new_drafts, width) else [])]


def test_a_run_with_a_tree_tests_the_kernel_that_keeps_a_branch_too(tested: list[str]) -> None:
    kernels = model(BF16).choose_kernels(Sampling(CODES, tree=8), "int8", 6, 8)
    attention = Choice(reference.window_attention, True, "passed")
    assert kernels == replace(FUSED, attention=attention, allocates=False, width=6 + 8)
    assert tested == [*KERNELS, "keep_branch"]
    # A window of one token has none.
    model(BF16).choose_kernels(Sampling(CODES, tree=8), "int8", 1, 8)
    assert tested == [*KERNELS, "keep_branch", *KERNELS]


@pytest.mark.parametrize("missing", KERNELS[:5])
def test_the_kernels_of_a_block_are_used_all_or_none(missing: str, choose_by: Callable[[Pick], None]) -> None:
    choose_by(lambda kernel, *_: Choice(reference_of(kernel), kernel != missing, "tested"))
    kernels = model(BF16).choose_kernels(*RUN)
    assert kernels.blocks is None and kernels.allocates
    assert kernels.attention.is_kernel == (missing != "window_attention")


@pytest.mark.parametrize("missing", ["draw_window", "accept_window", "place_drafts"])
def test_a_step_allocates_where_one_reference_is_used(missing: str, choose_by: Callable[[Pick], None]) -> None:
    choose_by(lambda kernel, *_: Choice(reference_of(kernel), kernel != missing, "tested"))
    sampling = Sampling(CODES, "coupled")
    kernels = model(BF16).choose_kernels(sampling, *RUN[1:])
    assert kernels.blocks is not None and kernels.allocates


def test_a_step_allocates_where_a_branch_is_kept_by_the_reference(choose_by: Callable[[Pick], None]) -> None:
    choose_by(lambda kernel, *_: Choice(reference_of(kernel), kernel != "keep_branch", "tested"))
    for tree in (8, 0):
        kernels = model(BF16).choose_kernels(Sampling(CODES, tree=tree), *RUN[1:])
        assert kernels.blocks is not None and kernels.allocates == (tree > 0)


def test_blocks_with_norms_after_the_matmuls_are_not_fused(tested: list[str]) -> None:
    kernels = model(BF16, swin_norm=True).choose_kernels(*RUN)
    assert kernels.blocks is None and "silu_gate" not in tested


@pytest.mark.parametrize(("decoder", "tree"), [("gumbel", 0), ("gumbel", 9), ("coupled", 0)])
@pytest.mark.parametrize("kv_cache", KV_CACHES)
def test_pictures_are_the_same(
    tested: list[str], decoder: str, tree: int, kv_cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer, vocabulary = model(BF16), toy_vocabulary(CODES)
    asked = {"decoder": decoder, "tree": tree, "kv_cache": kv_cache}
    settings = DecodeSettings(cfg_scale=3.0, top_k=40, seed=5, window_size=6, **asked)
    request = Request([[20, 21, 4], [22, 4]], 8, 4, None, settings)
    found = decode(transformer, vocabulary, request)
    assert found.attention_kernel == "triton (passed)" and tested
    monkeypatch.undo()
    choose = Transformer.choose_kernels
    monkeypatch.setattr(Transformer, "choose_kernels", lambda *run: replace(choose(*run), in_chunks=False))
    expected = decode(transformer, vocabulary, request)
    assert expected.attention_kernel.startswith("torch (") and torch.equal(found.codes, expected.codes)


@pytest.mark.parametrize(
    ("decoder", "window", "tree"), [("gumbel", 1, 0), ("gumbel", 6, 0), ("gumbel", 6, 3), ("sjd", 1, 0), ("sjd", 6, 0)]
)
@pytest.mark.parametrize("new_drafts", ["above", "guess"])
def test_a_run_draws_with_the_kernels_that_were_chosen(
    decoder: str, window: int, tree: int, new_drafts: str, choose_by: Callable[[Pick], None]
) -> None:
    used = set()

    def pick(kernel: str, *_: Any) -> Choice:
        def noted(*arguments: Any, **options: Any) -> Any:
            used.add(kernel)
            return reference_of(kernel)(*arguments, **options)

        return Choice(noted, True, "passed")

    choose_by(pick)
    settings = DecodeSettings(decoder=decoder, new_drafts=new_drafts, top_k=40, window_size=window, tree=tree)
    decode(model(BF16), toy_vocabulary(CODES), Request([[20, 4]], 8, 4, None, settings))
    places = ["place_drafts"] if places_drafts(decoder, new_drafts, window) else []
    assert used == {*KERNELS, *places, *(["keep_branch"] if tree else [])}


def samples_of(sampling: Sampling, choose_by: Callable[[Pick], None], width: int = 4) -> dict[str, tuple[Sample, ...]]:
    """The samples of the self-tests of a run's kernels, by the kernel."""
    found = {}

    def pick(kernel: str, device: torch.device, samples: tuple[Sample, ...]) -> Choice:
        found[kernel] = samples
        return Choice(reference_of(kernel), True, "passed")

    choose_by(pick)
    model(BF16).choose_kernels(sampling, "int8", width, 8)
    return found


@pytest.mark.parametrize("top_k", [1, CODES - 1, CODES, 4096])
@pytest.mark.parametrize("cfg_scale", [4.0, 1.0])
@pytest.mark.parametrize("new_drafts", NEW_DRAFTS)
@pytest.mark.parametrize("rule", RULES)
def test_the_self_tests_of_drawing_are_of_the_rule_and_the_sizes_of_a_run(
    rule: str, new_drafts: str, cfg_scale: float, top_k: int, choose_by: Callable[[Pick], None]
) -> None:
    run = Sampling(CODES, rule, new_drafts, cfg_scale, 0.9, top_k)
    found = samples_of(run, choose_by)
    logits, state, _ = found["draw_window"][0]("cpu")
    assert logits.dtype == BF16 and logits.shape[0] == 2 * len(state.pos) / (1 if run.guided else 2)
    for kernel in {"draw_window", "accept_window", "place_drafts"} & set(found):
        for sample in found[kernel]:
            (tested,) = (each.sampling for each in sample("cpu") if hasattr(each, "sampling"))
            assert (tested.codes, tested.rule, tested.new_drafts) == (CODES, rule, new_drafts)
            assert tested.guided == run.guided and (tested.top_k < CODES) == (top_k < CODES)


def test_runs_that_differ_in_numbers_alone_share_their_self_tests(choose_by: Callable[[Pick], None]) -> None:
    run = Sampling(CODES, "sjd", "guess", 4.0, 0.9, 40)
    changes = [{}, {"cfg_scale": 2.0}, {"temperature": 1.5}, {"top_k": 3}]
    for cut in ({"top_p": 0.5}, {"min_p": 0.3}):
        assert samples_of(replace(run, **cut), choose_by) != samples_of(run, choose_by)
    assert len({str(samples_of(replace(run, top_p=top_p), choose_by)) for top_p in (0.5, 0.7)}) == 1
    first, *others = (samples_of(replace(run, **each), choose_by) for each in changes)
    assert all(each == first for each in others)
    assert samples_of(replace(run, top_k=CODES), choose_by) != first


@pytest.mark.parametrize("tree", [1, 4, 16, 64])
def test_the_self_tests_have_the_tree_of_a_run(tree: int, choose_by: Callable[[Pick], None]) -> None:
    """Which the kernels are compiled for."""
    found, expected = samples_of(Sampling(CODES, tree=tree), choose_by, 32), DraftTree.of(tree, 32)
    of_window = "embed_window", "draw_window", "accept_window", "keep_branch"
    for kernel in of_window:
        (sample,) = found[kernel]
        (state,) = (each for each in sample("cpu") if isinstance(each, WindowState))
        assert state.tree == expected and len(state.tokens) == 2
    for sample in found["window_attention"]:
        query, _, _, positions, _, widest, found_tree, lanes = sample("cpu")
        assert found_tree == expected and torch.equal(lanes, expected.table("cpu"))
        assert query.shape[1] == positions.shape[1] == widest == 32 + tree


def published_model(scheme: str | None, **changes: Any) -> Transformer:
    """One block of the 7B on meta, whose quantised matmuls come in splits."""
    config = replace(SYNTHETIC["7b"].config, num_hidden_layers=1, **changes)
    plan = WeightsPlan(BF16, SCHEMES[scheme] if scheme else None)
    return empty_transformer(config, plan, backend=MatmulBackend("split", pytest.fail, split=pytest.fail))


@pytest.mark.parametrize(("scheme", "splits"), [("int4", (4, 2, 8)), (None, (1, 1, 1))])
def test_the_self_tests_of_a_block_have_the_splits_of_a_run(
    scheme: str | None,
    splits: tuple[int, int, int],
    choose_by: Callable[[Pick], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes = {}

    def pick(kernel: str, device: torch.device, samples: tuple[Sample, ...]) -> Choice:
        if kernel in OF_A_BLOCK[1:]:
            (sample,) = samples
            sums = sample(device)[kernel == "add_rms_norm"]
            shapes[kernel] = tuple(sums.shape)
            assert sums.dtype == (BF16 if len(sums) == 1 else torch.float32)
        return Choice(reference_of(kernel), True, "passed")

    choose_by(pick)
    monkeypatch.setattr(Transformer, "device", torch.device("cpu"))
    monkeypatch.setattr(Transformer, "dtype", BF16)
    published_model(scheme).choose_kernels(*RUN)
    qkv, gate, down = splits
    assert shapes == {
        "qkv_norm_rope_store": (qkv, 10, 12_288),
        "silu_gate": (gate, 5, 22_016),
        "add_rms_norm": (down, 5, 4096),
    }


@pytest.mark.parametrize(("split", "allocates"), [(pytest.fail, False), (None, True)])
def test_a_step_allocates_where_a_matmul_takes_no_buffers(
    split: Any, allocates: bool, tested: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it is captured only where capturing allocations works."""
    monkeypatch.setattr(Transformer, "device", torch.device("cpu"))
    monkeypatch.setattr(Transformer, "dtype", BF16)
    plan = WeightsPlan(BF16, SCHEMES["int8"])
    config = replace(SYNTHETIC["tiny"].config, num_hidden_layers=1)
    transformer = empty_transformer(config, plan, backend=MatmulBackend("any", pytest.fail, split=split))
    assert transformer.choose_kernels(*RUN).allocates == allocates and tested


@pytest.mark.parametrize(("length", "chunks"), [(9472, 16), (1024, 8), (1025, 16), (128, 1)])
@pytest.mark.parametrize("width", [1, 24, 64])
def test_the_self_tests_of_the_attention_combine_as_many_chunks_as_a_run(length: int, chunks: int, width: int) -> None:
    config = replace(SYNTHETIC["7b"].config, num_attention_heads=2, num_key_value_heads=2)
    assert padded_chunks(length) == chunks
    samples = attention_samples(config, "int8", width, chunks)
    queries, combined = [], []
    for sample in samples:
        query, keys, _, positions, kv_len, *_ = sample("cpu")
        assert int(positions.max()) + 1 == kv_len <= keys.values.shape[1] and positions.min() >= 0
        queries.append(query.shape[1])
        combined.append(padded_chunks(kv_len))
    assert chunks in combined
    tiles = {attention_tile(tokens, torch.bfloat16) for tokens in range(1, width + 1)}
    assert tiles <= {attention_tile(tokens, torch.bfloat16) for tokens in queries}


@pytest.mark.parametrize("scheme", SAMPLES)
def test_the_self_tests_of_a_matmul_have_the_splits_and_tiles_of_a_run(scheme: str) -> None:
    shapes = linear_shapes(SYNTHETIC["7b"].config)
    of_a_run = {split_count(*shape) for shape in shapes.values()}
    splits, tiles = set(), set()
    for sample in matmul_samples(scheme, shapes.values()):
        sizes = dict(sample.sizes)
        rows, in_features, out_features = (sizes[name] for name in ("rows", "in_features", "out_features"))
        splits.add(split_groups(in_features, matmul_tile(rows, in_features, out_features, BF16).splits)[0])
        tiles.add(matmul_tile(rows, in_features, out_features, BF16).rows)
        assert in_features < 4096
    assert (
        splits == of_a_run
        and len(of_a_run) > 1
        and tiles == {matmul_tile(rows, 4096, 4096, BF16).rows for rows in range(1, 200)}
    )


def test_a_weight_of_an_odd_shape_has_a_self_test_of_its_own() -> None:
    def inputs(*shapes: tuple[int, int]) -> set[int]:
        samples = matmul_samples("int4", shapes)
        return {dict(sample.sizes)["in_features"] % 128 for sample in samples}

    assert inputs((4096, 64)) == {0} and inputs((4096, 64), (300, 64)) == {0, 44}


def test_head_norm_is_in_float32_and_rounded_once() -> None:
    norm, x = HeadNorm(2, 16), torch.randn(3, 4, 16).bfloat16()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    assert torch.equal(norm.bfloat16()(x), norm.float()(x.float()).bfloat16())
