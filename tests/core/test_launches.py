"""A step of the 7B by the kernels, without a GPU: how many launches it is, and that it allocates and copies nothing.

The tensors are on the meta device and have the published shapes; a launch of Triton is counted instead of made.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from lumina_core.decoding.canvas import Canvas
from lumina_core.decoding.settings import DecodeSettings
from lumina_core.decoding.window import Window
from lumina_core.kernels.kv_tensor import KV_CACHES
from lumina_core.kernels.select import Choice, load
from lumina_core.kernels.window_state import NEW_DRAFTS
from lumina_core.model.load import empty_transformer
from lumina_core.model.run_kernels import BlockKernels, RunKernels
from lumina_core.model.transformer import Transformer
from lumina_core.quant.schemes import SCHEMES
from lumina_core.quant.triton_matmul import MAX_ROWS, triton_backend
from lumina_core.quant.weights import WeightsPlan
from lumina_core.timing.synthetic import SYNTHETIC

triton = pytest.importorskip("triton")
NoGPU = pytest.importorskip("benchmarks.gpu_code").NoGPU

# Of PyTorch, what a step launches: a matmul into a buffer.
INTO_A_BUFFER = {torch.ops.aten.mm.out}
CANVAS = Canvas(96, 96)


class Launches(TorchDispatchMode):
    """Counts the launches of a step; refuses operations that allocate, copy, or compute in float64."""

    def __init__(self, counted: Counter[str]):
        super().__init__()
        self.counted = counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given, results = (tensors_of(each) for each in ((args, kwargs), result))
        memory = {each.untyped_storage()._cdata for each in given}
        if func in INTO_A_BUFFER:
            self.counted[str(func)] += 1
        else:
            # Only views, for which the device does nothing.
            is_view = not func._schema.is_mutable and results
            assert is_view and all(each.untyped_storage()._cdata in memory for each in results), f"{func} in a step"
        assert all(each.dtype != torch.float64 and each.is_meta for each in (*given, *results)), f"{func} of {given}"
        return result


def tensors_of(values: Any) -> list[torch.Tensor]:
    return [each for each in tree_flatten(values)[0] if isinstance(each, torch.Tensor)]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The launches of Triton kernels from now on, by name; none is made."""
    found: Counter[str] = Counter()

    def launch(kernel: Any, grid: tuple[int, ...]) -> Any:
        def count(*arguments: Any, **options: Any) -> None:
            assert all(0 < size < 2**31 for size in grid)
            found[kernel.fn.__name__] += 1

        return count

    monkeypatch.setattr(triton.runtime.jit.JITFunction, "__getitem__", launch)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True))
    monkeypatch.setattr(triton.runtime.driver, "_active", NoGPU(90))
    return found


def transformer_of(scheme: str | None) -> Transformer:
    """The 7B on the meta device."""
    plan = WeightsPlan(torch.bfloat16, SCHEMES[scheme] if scheme else None)
    config = replace(SYNTHETIC["7b"].config, image_token_offset=0, vocab_size=16_384)
    choice = Choice(load(f"{scheme}_matmul"), True, "counted") if scheme else None
    model = empty_transformer(config, plan, **({"backend": triton_backend(choice)} if choice else {}))
    model.text_embedding = torch.empty(16_384, config.hidden_size, device="meta", dtype=torch.bfloat16)
    return model.bfloat16()


@torch.inference_mode()
def launches_of_a_step(
    counted: Counter[str],
    scheme: str | None = "int4",
    kv_cache: str = "int8",
    width: int = 32,
    pictures: int = 1,
    **settings: Any,
) -> Counter[str]:
    transformer = transformer_of(scheme)
    names = ("embed_window", "qkv_norm_rope_store", "silu_gate", "add_rms_norm")
    window_kernels = (load(name) for name in ("draw_window", "accept_window", "place_drafts", "keep_branch"))
    attention = Choice(load("window_attention"), True, "counted")
    chosen = DecodeSettings(window_size=32, kv_cache=kv_cache, **settings)
    kernels = RunKernels(attention, BlockKernels(*map(load, names)), *window_kernels, width=chosen.slots)
    cache = transformer.make_cache(pictures * (2 if chosen.guided else 1), 9472, kv_cache, kernels)
    window = Window(transformer, CANVAS, cache, pictures, chosen)
    codes = torch.zeros(pictures, CANVAS.grid_h, CANVAS.grid_w, dtype=torch.int64)
    window.place(CANVAS, [64] * pictures, codes, codes == 0, 0, 3)
    # The first step takes the buffers.
    window.step(cache.length, width)
    counted.clear()
    with Launches(counted):
        window.step(cache.length, width)
    return counted


def drawing(launches: Counter[str]) -> int:
    """Launches that are neither of the blocks nor of the head."""
    return sum(count for name, count in launches.items() if count < 32 and name != "aten.mm.out")


@pytest.mark.parametrize("kv_cache", KV_CACHES)
@pytest.mark.parametrize("scheme", ["int4", "int8", None])
def test_a_step_is_few_launches_and_allocates_nothing(counted: Counter[str], scheme: str | None, kv_cache: str) -> None:
    for width in (1, 8, 32):
        launches = launches_of_a_step(counted, scheme, kv_cache, width)
        assert launches.total() <= 330, launches
        assert drawing(launches) == 3, launches


@pytest.mark.parametrize("way", NEW_DRAFTS)
@pytest.mark.parametrize("decoder", ["ar", "gumbel", "sjd", "coupled"])
def test_drawing_is_at_most_four_launches(counted: Counter[str], decoder: str, way: str) -> None:
    for cfg_scale in (1.0, 4.0):
        width = 1 if decoder == "ar" else 32
        launches = launches_of_a_step(counted, width=width, decoder=decoder, new_drafts=way, cfg_scale=cfg_scale)
        needs_four = decoder in ("sjd", "coupled") or (way == "guess" and decoder != "ar")
        assert drawing(launches) == 3 + needs_four and launches.total() <= 330, launches


@pytest.mark.parametrize(("kv_cache", "tensors"), [("auto", 2), ("int8", 4), ("int4", 6)])
@pytest.mark.parametrize("tree", [1, 16, 64])
def test_a_tree_is_a_launch_more_for_each_tensor_of_the_cache(
    counted: Counter[str], tree: int, kv_cache: str, tensors: int
) -> None:
    for scheme, width in (("int4", 32), (None, 16)):
        plain = Counter(launches_of_a_step(counted, scheme, kv_cache, width))
        launches = launches_of_a_step(counted, scheme, kv_cache, width, tree=tree)
        assert launches - plain == Counter(_keep_branch=tensors) and not plain - launches, launches


@pytest.mark.parametrize("scheme", ["int4", "int8"])
def test_so_is_a_step_of_more_rows_than_a_prefill_gives_the_kernels(counted: Counter[str], scheme: str) -> None:
    launches = launches_of_a_step(counted, scheme, pictures=40)
    assert MAX_ROWS < 40 * 2 * 32 and launches.total() <= 330 and drawing(launches) == 3


def test_the_check_sees_an_allocation(counted: Counter[str]) -> None:
    x = torch.empty(2, 2, device="meta")
    for operation in (lambda: x + 1, x.clone, lambda: x.t().contiguous(), lambda: torch.empty_like(x)):
        with pytest.raises(AssertionError, match="in a step"), Launches(counted):
            operation()
