"""The draft tree of `gumbel`: which nodes it has, that they see what a window sees, and that no picture changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lumina_core.decoding.loop import decode
from lumina_core.decoding.request import Request
from lumina_core.decoding.settings import AUTO_TREE, MAX_WINDOW, NEW_DRAFTS, DecodeResult, DecodeSettings
from lumina_core.errors import InputError
from lumina_core.kernels import reference
from lumina_core.kernels.chunked_attention import Chunks, chunked_attention
from lumina_core.kernels.draft_tree import MAX_TREE, DraftTree
from lumina_core.kernels.kv_tensor import CHUNK, KV_CACHES, KVTensor
from lumina_core.kernels.window_reference import keep_branch
from lumina_core.kernels.window_state import Layout, Sampling, WindowState
from lumina_core.model.transformer import Transformer

from .toys import AnySize, toy_transformer, toy_vocabulary

CODES = 64
# The cache is longer than a chunk of the attention, and the pictures are at different places in it.
SIZES = {"two chunks": (13, 13), "one row": (1, 12)}
PROMPTS = ((20, 21, 22, 4), (23, 4), (24, 25, 26, 27, 28, 29, 4))
TREES = ((2, 1), (3, 4), (7, 8), (16, 16), (32, 16), (32, MAX_TREE), (128, 40))
SETTINGS = {
    "sampled": DecodeSettings(cfg_scale=2.0, top_k=40, temperature=0.7, seed=3),
    "unguided": DecodeSettings(cfg_scale=1.0, top_k=CODES, seed=4),
    "greedy": DecodeSettings(cfg_scale=3.0, top_k=1),
    "cut": DecodeSettings(cfg_scale=2.0, top_k=40, seed=5, top_p=0.8, min_p=0.05),
}
WIDTH, HEADS, HEAD_DIM, LENGTH = 12, 4, 16, 3 * CHUNK
FP32 = torch.float32


@pytest.fixture(scope="module")
def transformer() -> Transformer:
    return toy_transformer(CODES, hidden=32, spread=1.0)


def drawn(
    transformer: Transformer,
    settings: DecodeSettings,
    size: tuple[int, int] = SIZES["two chunks"],
    prompts: Any = PROMPTS,
    given: Tensor | None = None,
) -> DecodeResult:
    return decode(transformer, toy_vocabulary(CODES, AnySize), Request(prompts, *size, given, settings))


@pytest.mark.parametrize("window", [2, 3, 6, 16, MAX_WINDOW])
@pytest.mark.parametrize("nodes", [1, 5, 16, MAX_TREE])
def test_a_tree_fits_its_window(nodes: int, window: int) -> None:
    tree = DraftTree.of(nodes, window)
    assert len(tree) == min(nodes, 3 * window * (window - 1) // 2) == len(tree.depths("cpu"))
    assert 2 <= tree.reach <= window
    assert sorted(node for lane in tree.lanes for node in lane.nodes) == list(range(len(tree)))
    assert len({(lane.depth, lane.rank) for lane in tree.lanes}) == len(tree.lanes)
    assert tree.table("cpu").tolist() == [[lane.depth, lane.rank, lane.length, lane.first] for lane in tree.lanes]


def test_a_larger_tree_holds_a_smaller_one() -> None:
    def nodes(count: int) -> set[tuple[int, int, int]]:
        lanes = DraftTree.of(count, 32).lanes
        return {(lane.depth, lane.rank, node) for lane in lanes for node in range(lane.length)}

    for count in range(1, MAX_TREE):
        assert nodes(count) < nodes(count + 1)


def test_no_nodes_are_no_tree() -> None:
    for tree in (DraftTree.of(0, 32), DraftTree.of(MAX_TREE, 1)):
        assert (len(tree), tree.lanes, tree.ranks, tree.longest, tree.reach) == (0, (), 0, 0, 1)
        assert tree.table("cpu").shape == (0, 4) and tree.depths("cpu").shape == (0,)


@pytest.mark.slow
@pytest.mark.parametrize("kv_cache", KV_CACHES)
@pytest.mark.parametrize("settings", SETTINGS)
def test_every_tree_draws_what_ar_draws(transformer: Transformer, settings: str, kv_cache: str) -> None:
    asked = replace(SETTINGS[settings], kv_cache=kv_cache)
    expected = drawn(transformer, replace(asked, decoder="ar"))
    turn = KV_CACHES.index(kv_cache)
    for number, (window, tree) in enumerate(TREES[turn::3]):
        way = NEW_DRAFTS[(number + turn) % len(NEW_DRAFTS)]
        found = drawn(transformer, replace(asked, window_size=window, tree=tree, new_drafts=way))
        assert torch.equal(found.codes, expected.codes), (window, tree)
        assert found.log_likelihood == expected.log_likelihood
        assert [sum(lengths) for lengths in found.accept_lengths] == [sum(one) for one in expected.accept_lengths]


def test_every_tree_draws_what_ar_draws_in_bf16() -> None:
    transformer = toy_transformer(CODES, hidden=32, spread=1.0).bfloat16()
    transformer.text_embedding = transformer.text_embedding.bfloat16()
    asked = SETTINGS["sampled"]
    expected = drawn(transformer, replace(asked, decoder="ar"))
    for window, tree in TREES[1::2]:
        assert torch.equal(drawn(transformer, replace(asked, window_size=window, tree=tree)).codes, expected.codes)


@pytest.mark.slow
def test_given_rows_and_small_pictures_draw_what_ar_draws(transformer: Transformer) -> None:
    given = torch.randint(0, CODES, (len(PROMPTS), 9, 13), generator=torch.Generator().manual_seed(1))
    for size, rows in ((SIZES["two chunks"], given), (SIZES["one row"], None), ((2, 1), None), ((1, 1), None)):
        expected = drawn(transformer, replace(SETTINGS["sampled"], decoder="ar"), size, given=rows)
        for window, tree in TREES:
            asked = replace(SETTINGS["sampled"], window_size=window, tree=tree)
            assert torch.equal(drawn(transformer, asked, size, given=rows).codes, expected.codes), (size, window, tree)


def test_picture_k_is_the_picture_of_seed_plus_k_alone(transformer: Transformer) -> None:
    asked = replace(SETTINGS["sampled"], tree=16)
    together = drawn(transformer, asked).codes
    for k, prompt in enumerate(PROMPTS):
        alone = drawn(transformer, replace(asked, seed=asked.seed + k), prompts=[prompt])
        assert torch.equal(alone.codes[0], together[k])


def test_a_tree_saves_forwards(transformer: Transformer) -> None:
    def forwards(tree: int) -> int:
        asked = replace(SETTINGS["sampled"], adapt_window=False, tree=tree)
        return sum(len(lengths) for lengths in drawn(transformer, asked).accept_lengths)

    assert forwards(16) < 0.9 * forwards(0)


def test_a_tree_that_is_left_to_the_device() -> None:
    asked = DecodeSettings()
    assert [asked.with_tree(rows, True).tree for rows in (1, 2, 4, 8, 64)] == [AUTO_TREE, AUTO_TREE, 8, 4, 0]
    assert asked.with_tree(2, False).tree == 0
    assert replace(asked, tree=5).with_tree(2, False).tree == 5
    for other in ({"decoder": "ar"}, {"decoder": "sjd"}, {"decoder": "coupled"}, {"window_size": 1}):
        assert replace(asked, **other).with_tree(2, True).tree == 0


@pytest.mark.parametrize(
    "wrong",
    [
        *({"tree": value} for value in (-1, MAX_TREE + 1, 1.5, "16", True)),
        *({"tree": 8, "decoder": decoder} for decoder in ("ar", "sjd", "coupled")),
        {"tree": 8, "window_size": 1},
    ],
)
def test_a_tree_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^tree is .*; expected"):
        DecodeSettings(**wrong)


def cached(kind: str, dtype: torch.dtype, rows: int, seed: int, by_head: bool = True) -> KVTensor:
    """A cache of random values, as `chunked_attention` reads it."""
    stored = KVTensor.empty(kind, (rows, LENGTH, HEADS // 2, HEAD_DIM), dtype, "cpu", by_head)
    values = torch.randn(rows, LENGTH, HEADS // 2, HEAD_DIM, generator=torch.Generator().manual_seed(seed))
    stored.write(torch.arange(rows)[:, None], torch.arange(LENGTH).expand(rows, -1), values.to(dtype))
    return stored


@pytest.mark.parametrize("kind", KV_CACHES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("nodes", [1, 16, 40])
def test_a_node_has_the_bits_of_a_token_of_the_window(kind: str, dtype: torch.dtype, nodes: int) -> None:
    """A lane in the tree gives what a window gives that has its tokens; before, across and after the end of a chunk."""
    tree = DraftTree.of(nodes, WIDTH)
    first = torch.tensor([0, 1, CHUNK - 4, CHUNK - 1, CHUNK, 2 * CHUNK - 2])
    keys, values = (cached(kind, dtype, len(first), seed) for seed in (1, 2))
    pos = first[:, None] + torch.arange(WIDTH)
    node_pos = first[:, None] + tree.depths("cpu")
    shape, generator = (len(first), WIDTH + nodes, HEADS, HEAD_DIM), torch.Generator().manual_seed(3)
    query = torch.randn(shape, generator=generator).to(dtype)
    kv_len, sizes = int(pos.max()) + 1, (HEADS, HEAD_DIM, dtype)
    with_tree = Chunks.of(torch.cat((pos, node_pos), 1), kv_len, keys, *sizes, tree)
    found = chunked_attention(query, keys, values, with_tree)
    plain = chunked_attention(query[:, :WIDTH], keys, values, Chunks.of(pos, kv_len, keys, *sizes))
    assert torch.equal(found[:, :WIDTH], plain)
    row = torch.arange(len(first))[:, None]
    for lane in tree.lanes:
        nodes_of = torch.tensor(lane.nodes)
        own = [cached(kind, dtype, len(first), seed) for seed in (1, 2)]
        for stored in own:
            stored.move(row, (LENGTH - nodes + nodes_of).expand(len(first), -1), node_pos[:, nodes_of])
        alone = Chunks.of(pos, kv_len, own[0], *sizes)
        places = lane.depth + torch.arange(lane.length)
        windowed = query[:, :WIDTH].clone()
        windowed[:, places] = query[:, WIDTH + nodes_of]
        expected = chunked_attention(windowed, *own, alone)[:, places]
        assert torch.equal(found[:, WIDTH + nodes_of], expected)


@pytest.mark.parametrize("kind", KV_CACHES)
def test_the_reference_attends_as_the_attention_in_chunks(kind: str) -> None:
    tree = DraftTree.of(16, WIDTH)
    first = torch.tensor([0, CHUNK - 3])
    keys, values = (cached(kind, FP32, len(first), seed) for seed in (1, 2))
    pos = torch.cat((first[:, None] + torch.arange(WIDTH), first[:, None] + tree.depths("cpu")), 1)
    query = torch.randn(len(first), WIDTH + 16, HEADS, HEAD_DIM, generator=torch.Generator().manual_seed(3))
    kv_len = int(pos.max()) + 1
    in_chunks = chunked_attention(query, keys, values, Chunks.of(pos, kv_len, keys, HEADS, HEAD_DIM, FP32, tree))
    found = reference.window_attention(query, keys, values, pos, kv_len, tree=tree, lanes=tree.table("cpu"))
    torch.testing.assert_close(found, in_chunks, rtol=1e-4, atol=1e-5)


def test_an_accepted_branch_is_copied_to_its_places_in_every_layer() -> None:
    sampling = Sampling(CODES, cfg_scale=2.0, tree=16)
    state = WindowState.empty(Layout(3, 9, 80), sampling, WIDTH, 2, 120, "cpu")
    state.offset.copy_(torch.tensor([5, 2, 0, 0]))
    state.branch.copy_(torch.tensor([[5, 30, 2], [0, 40, 0]]))
    layers, rows = 3, 4
    keys, values = (cached("int8", FP32, layers * rows, seed) for seed in (1, 2))
    before = [stored.read(LENGTH, FP32).clone() for stored in (keys, values)]
    keep_branch(state, keys, values)
    for stored, old in zip((keys, values), before, strict=True):
        expected = old.clone()
        for layer in range(layers):
            for row, at in ((0, 35), (2, 30)):  # the first picture's, at its own offset in each branch of guidance
                expected[layer * rows + row, at : at + 2] = old[layer * rows + row, LENGTH - 16 + 5 : LENGTH - 16 + 7]
        assert torch.equal(stored.read(LENGTH, FP32), expected)
