"""A step of the window is the same operations on the same shapes, whatever the tokens; the host reads nothing in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from lumina_core.decoding.settings import NEW_DRAFTS, DecodeSettings
from lumina_core.decoding.window import Window
from lumina_core.kernels import reference, window_reference
from lumina_core.kernels.kv_tensor import KV_CACHES
from lumina_core.kernels.select import Choice
from lumina_core.model.run_kernels import BlockKernels, RunKernels
from lumina_core.model.transformer import Transformer

from .toys import Toy, toy_transformer

aten = torch.ops.aten
# Operations that make the host wait for the device, or whose result's shape depends on values.
READS = {
    aten._local_scalar_dense,
    aten.is_nonzero,
    aten.equal,
    aten.nonzero,
    aten.masked_select,
    aten.unique_dim,
    aten.unique_consecutive,
    aten._unique2,
    aten.bincount,
}
# `torch.tensor(…)`: a copy from the host.
COPIES = {aten.lift_fresh}
INDEXING = {aten.index, aten.index_put, aten.index_put_}

SETTINGS = DecodeSettings(cfg_scale=3.0, top_k=8, temperature=0.7, seed=5, window_size=7)


def refuse(*_: Any) -> None:
    raise AssertionError("the host reads a tensor")


class Operations(TorchDispatchMode):
    """Records every operation with the shapes and numbers it is given.

    Refuses those that the host waits for, and numbers in float64, of which GPUs for games compute few in a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self.record: list[tuple[str, str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        assert packet not in READS | COPIES, f"{func} in a step"
        if packet in INDEXING:
            assert all(index is None or index.dtype != torch.bool for index in args[1]), "an index that is a mask"
        given = tree_map(lambda x: ("tensor", *x.shape) if isinstance(x, Tensor) else x, (args, kwargs or {}))
        self.record.append((str(func), str(given)))
        result = func(*args, **(kwargs or {}))
        dtypes = {x.dtype for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)}
        assert torch.float64 not in dtypes, f"{func} in float64"
        return result


@pytest.fixture(scope="module")
def toy() -> Toy:
    nothing_given = torch.zeros(0, 5, dtype=torch.int64)
    return Toy(toy_transformer(64, hidden=32, spread=2.0), 4, 5, ((20, 21, 22, 4), (23, 4)), nothing_given)


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, int], list[list[tuple[str, str]]]]:
    """The operations of every step that follows, by the length of cache that it reads and its width."""
    found: dict[tuple[int, int], list[list[tuple[str, str]]]] = {}
    step: Callable = Window.step

    def watched(window: Window, kv_len: int, width: int) -> None:
        with Operations() as operations, pytest.MonkeyPatch.context() as patch:
            for reading in ("tolist", "numpy", "item", "__bool__", "__int__", "__float__", "__index__"):
                patch.setattr(Tensor, reading, refuse)
            step(window, kv_len, width)
        found.setdefault((kv_len, width), []).append(operations.record)

    monkeypatch.setattr(Window, "step", watched)
    return found


@pytest.fixture
def _draws_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU the attention and the reference of the draw save work where the host reads something."""

    def draw(logits: Tensor, noise: Tensor, top_k: int) -> Tensor:
        return reference.gumbel_draw(reference.topk_cut(logits, top_k), noise, logits.shape[-1])

    monkeypatch.setattr(window_reference, "gumbel_draw", draw)
    choose = Transformer.choose_kernels
    monkeypatch.setattr(Transformer, "choose_kernels", lambda *run: replace(choose(*run), in_chunks=False))


def is_same_in_every_step(toy: Toy, records: dict[tuple[int, int], list], settings: DecodeSettings) -> bool:
    result = toy.decode(settings, 2)
    assert sum(map(len, records.values())) == result.nfe
    assert max(map(len, records.values())) >= 3
    same = all(step == steps[0] for steps in records.values() for step in steps)
    records.clear()
    return same


@pytest.mark.usefixtures("_draws_as_on_a_gpu")
@pytest.mark.parametrize("way", NEW_DRAFTS)
@pytest.mark.parametrize("decoder", ["ar", "gumbel", "sjd", "coupled"])
def test_every_step_is_the_same_operations_and_none_is_read(
    toy: Toy, records: dict[tuple[int, int], list], decoder: str, way: str
) -> None:
    for changes in ({"cfg_scale": 3.0}, {"cfg_scale": 1.0, "top_p": 0.8, "min_p": 0.1}):
        asked = replace(SETTINGS, decoder=decoder, new_drafts=way, **changes)
        for tree in (0, 9) if decoder == "gumbel" else (0,):
            assert is_same_in_every_step(toy, records, replace(asked, tree=tree))


@pytest.mark.usefixtures("_draws_as_on_a_gpu")
@pytest.mark.parametrize("kv_cache", KV_CACHES)
def test_so_is_every_step_with_fused_blocks(
    toy: Toy, records: dict[tuple[int, int], list], kv_cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = BlockKernels(
        window_reference.embed_window, reference.qkv_norm_rope_store, reference.silu_gate, reference.add_rms_norm
    )
    kernels = RunKernels(Choice(reference.window_attention, True, "as on a GPU"), blocks)
    monkeypatch.setattr(Transformer, "choose_kernels", lambda *_: kernels)
    for tree in (0, 9):
        assert is_same_in_every_step(toy, records, replace(SETTINGS, kv_cache=kv_cache, tree=tree))


@pytest.mark.parametrize("way", NEW_DRAFTS)
@pytest.mark.parametrize(("decoder", "tree"), [("ar", 0), ("gumbel", 0), ("gumbel", 9), ("sjd", 0), ("coupled", 0)])
def test_a_step_changes_what_its_window_says_in_place_and_nothing_else(
    toy: Toy, decoder: str, tree: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A captured step goes on with the tensors that it was captured with."""
    step, places = Window.step, set[tuple[int, ...]]()

    def watched(window: Window, kv_len: int, width: int) -> None:
        state = window.state
        fixed = state.keys, state.offset, state.slot, state.lanes, state.depths
        before = [one.clone() for one in fixed]
        step(window, kv_len, width)
        assert window.state is state and all(map(torch.equal, fixed, before))
        places.add(tuple(one.data_ptr() for one in (*state.changed, *fixed)))

    monkeypatch.setattr(Window, "step", watched)
    assert toy.decode(replace(SETTINGS, decoder=decoder, new_drafts=way, tree=tree), 2).nfe > 1
    assert len(places) == 1


def test_the_check_sees_a_read_and_float64() -> None:
    numbers = torch.arange(3)
    wrong: list[Callable[[], object]] = [
        lambda: numbers.sum().item(),
        lambda: bool((numbers > 1).any()),
        numbers.nonzero,
        lambda: numbers[numbers > 1],
        lambda: torch.tensor([1]),
        numbers.double,
        lambda: torch.rand(3, dtype=torch.float64).float(),
    ]
    for each in wrong:
        with pytest.raises(AssertionError), Operations():
            each()


@pytest.mark.parametrize("decoder", ["ar", "gumbel", "sjd", "coupled"])
def test_global_random_numbers_are_neither_used_nor_moved(toy: Toy, decoder: str) -> None:
    settings = replace(SETTINGS, decoder=decoder, new_drafts="random")
    pictures = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        pictures.append(toy.decode(settings, 2).codes)
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*pictures)
