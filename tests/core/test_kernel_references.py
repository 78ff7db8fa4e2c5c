"""The references are what the engine computes, and a device that does not support the kernels gets the references."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lumina_core.kernels import reference, select, window_reference
from lumina_core.kernels.kv_tensor import KV_CACHES, KVTensor
from lumina_core.kernels.samples import attention_sample, int4_sample, silu_gate_sample
from lumina_core.kernels.select import PASSED, Choice, choose, load, reference_of, unsupported_reason
from lumina_core.kernels.self_test import Function, Sample
from lumina_core.kernels.window_samples import accept_window_sample, draw_window_sample
from lumina_core.kernels.window_state import Drawn, Sampling, WindowState
from lumina_core.quant.linear import quantized_operations
from lumina_core.quant.schemes import SCHEMES
from lumina_core.quant.select import SAMPLES

DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", SAMPLES)
@pytest.mark.parametrize("in_features", [256, 200])
def test_a_matmul_is_the_quantised_layers(dtype: torch.dtype, scheme: str, in_features: int) -> None:
    x, *packed = SAMPLES[scheme]("cpu", dtype, in_features=in_features)
    layer = quantized_operations(SCHEMES[scheme], nn).Linear(in_features, len(packed[0]), bias=False)
    layer.load_state_dict(dict(zip(layer.packed_names, packed, strict=True)))
    with torch.no_grad():
        found = getattr(reference, f"{scheme}_matmul")(x, *packed)
        assert torch.equal(found, F.linear(x, layer.weight_rows(0, 96, x)))


@pytest.mark.parametrize("kv_cache", KV_CACHES)
def test_attention_sees_what_is_filled_and_no_more(kv_cache: str) -> None:
    query, keys, values, input_pos, *_ = attention_sample(
        "cpu", torch.float32, kv_cache=kv_cache, heads=(4, 2), head_dim=16, corrupt=kv_cache != "auto"
    )
    found = reference.window_attention(query, keys, values, input_pos, 96)
    for row, slot in ((0, 3), (1, 0)):
        seen = int(input_pos[row, slot]) + 1
        key, value = (part.read(seen, torch.float32)[row].repeat_interleave(2, 1) for part in (keys, values))
        shares = (torch.einsum("hd,nhd->hn", query[row, slot], key) / 4).softmax(-1)
        torch.testing.assert_close(found[row, slot], torch.einsum("hn,nhd->hd", shares, value))


def test_a_cache_is_written_as_the_kernel_writes_it() -> None:
    """`qkv_norm_rope_store` writes values, which it neither norms nor rotates, as `KVTensor.write` does."""
    values = torch.randn(4, 2, 16, generator=torch.Generator().manual_seed(0))
    input_pos, norm = torch.tensor([[4, 0], [2, 3]]), (torch.ones(1, 16), torch.zeros(1, 16))
    for kv_cache in KV_CACHES:
        keys, found, expected = (KVTensor.empty(kv_cache, (2, 5, 2, 16), torch.float32, "cpu") for _ in range(3))
        sums = torch.cat((torch.randn(4, 2, 16), torch.randn(4, 2, 16), values), 1).flatten(1)[None]
        tables = torch.ones(5, 16), torch.zeros(5, 16)
        reference.qkv_norm_rope_store(sums, norm, norm, *tables, input_pos, keys, found)
        expected.write(torch.tensor([[0], [1]]), input_pos, values.unflatten(0, (2, 2)))
        assert all(map(torch.equal, found.tensors, expected.tensors))


def test_queries_are_rotated_by_the_angles_of_their_positions() -> None:
    cos, sin = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))
    input_pos, norm = torch.tensor([[4, 0], [2, 3]]), (torch.ones(1, 16), torch.zeros(1, 16))
    sums = torch.randn(1, 4, 3 * 2 * 16, generator=torch.Generator().manual_seed(2))
    keys, values = (KVTensor.empty("auto", (2, 5, 2, 16), torch.float32, "cpu") for _ in "kv")
    found, *_ = reference.qkv_norm_rope_store(sums, norm, norm, cos, sin, input_pos, keys, values)
    for token, at in enumerate((4, 0, 2, 3)):
        normed = F.layer_norm(sums[0, token].view(6, 16)[:2], (16,), eps=reference.HEAD_NORM_EPS)
        torch.testing.assert_close(found[token], reference.apply_rope(normed, cos[at], sin[at]))


@pytest.mark.parametrize("top_k", [1, 50, 1000])
def test_cut_leaves_the_k_largest(top_k: int) -> None:
    logits = torch.randn(5, 1000, generator=torch.Generator().manual_seed(0))
    kth = logits.sort(-1, descending=True).values[:, [top_k - 1]]
    assert torch.equal(reference.topk_cut(logits, top_k), logits.where(logits >= kth, -torch.inf))


# Which function serves on a device


UNTESTED = (Sample(lambda device: pytest.fail("a self-test was made")),)


@pytest.fixture
def supported(monkeypatch: pytest.MonkeyPatch) -> Callable[[Function], None]:
    """Makes the CPU a device that has kernels, all of which are the given function."""

    def use(function: Function) -> None:
        monkeypatch.setattr(select, "unsupported_reason", lambda device: "")
        monkeypatch.setattr(select, "load", lambda kernel: function)

    return use


@pytest.mark.parametrize("kernel", select.MODULES)
def test_a_cpu_gets_the_reference_and_no_self_test(kernel: str) -> None:
    choice = choose(kernel, "cpu", UNTESTED)
    assert choice == Choice(reference_of(kernel), False, "the kernels are for NVIDIA GPUs, not cpu")
    assert str(choice) == "torch (the kernels are for NVIDIA GPUs, not cpu)"


@pytest.mark.parametrize("kernel", select.MODULES)
def test_a_reference_is_called_as_its_kernel_is(kernel: str) -> None:
    plain = reference_of(kernel)
    assert plain.__name__ == kernel and plain.__module__ in (reference.__name__, window_reference.__name__)
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    both = load(kernel), plain
    takes, plainly = ({name: one.default for name, one in inspect.signature(each).parameters.items()} for each in both)
    needs = [
        [name for name, default in each.items() if default is inspect.Parameter.empty] for each in (takes, plainly)
    ]
    assert needs[0] == needs[1] and plainly.items() <= takes.items()


def test_an_old_gpu_gets_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert unsupported_reason("cuda") == "compute capability (7, 5); the kernels need (8, 0) or more"


def test_without_triton_the_reference_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setitem(sys.modules, "triton", None)
    choice = choose("silu_gate", "cuda", UNTESTED)
    assert not choice.is_kernel and choice.reason.startswith("triton cannot be imported")


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda *given: reference.silu_gate(*given) * 1.1, "the self-test found an error of 0.1 of the result"),
        (lambda *given: reference.silu_gate(*given) * torch.nan, "the self-test found an error of nan"),
        (lambda sums, dtype: sums.missing, "the self-test failed: AttributeError"),
    ],
)
def test_a_kernel_that_fails_its_self_test_is_not_used_and_it_says_why(
    function: Function, reason: str, supported: Callable[[Function], None]
) -> None:
    supported(function)
    choice = choose("silu_gate", "cpu", (Sample(lambda device: silu_gate_sample(device, torch.float32)),))
    assert choice.function is reference.silu_gate and not choice.is_kernel and choice.reason.startswith(reason)


def test_a_kernel_that_passes_its_self_test_is_used(supported: Callable[[Function], None]) -> None:
    def kernel(*arguments: Any) -> Tensor:
        return reference.int4_matmul(*arguments)

    supported(kernel)
    choice = choose("int4_matmul", "cpu", (Sample(lambda device: int4_sample(device, torch.bfloat16)),))
    assert choice == Choice(kernel, True, PASSED) and str(choice) == f"triton ({PASSED})"


@pytest.mark.parametrize(("off", "is_kernel"), [(0, True), (1, False)])
def test_other_tokens_fail_a_self_test_however_near(
    off: int, is_kernel: bool, supported: Callable[[Function], None]
) -> None:
    def drawn(*arguments: Any) -> Drawn:
        result = window_reference.draw_window(*arguments)
        result.tokens[0, 0] += off
        return result

    supported(drawn)
    sample = Sample(lambda device: draw_window_sample(device, torch.float32, Sampling(16_384)))
    assert choose("draw_window", "cpu", (sample,)).is_kernel == is_kernel


def move(state: WindowState, drawn: Drawn) -> None:
    window_reference.accept_window(state, drawn)


def move_one_further(state: WindowState, drawn: Drawn) -> None:
    move(state, drawn)
    state.pos.add_(1)


def forget_a_forward(state: WindowState, drawn: Drawn) -> None:
    move(state, drawn)
    state.steps.sub_(1)


@pytest.mark.parametrize(
    ("function", "is_kernel"),
    [(move, True), (lambda *_: None, False), (move_one_further, False), (forget_a_forward, False)],
)
def test_a_self_test_compares_what_becomes_of_a_window(
    function: Function, is_kernel: bool, supported: Callable[[Function], None]
) -> None:
    supported(function)
    sample = Sample(lambda device: accept_window_sample(device, Sampling(50)))
    assert choose("accept_window", "cpu", (sample,)).is_kernel == is_kernel


def test_every_sample_is_tested(supported: Callable[[Function], None]) -> None:
    def narrow(x: Tensor, *packed: Tensor) -> Tensor:
        assert len(x) <= 5, "no more than five rows"
        return reference.int4_matmul(x, *packed)

    supported(narrow)
    few, many = (Sample.of(int4_sample, dtype=torch.bfloat16, rows=rows) for rows in (5, 32))
    assert choose("int4_matmul", "cpu", (few,)).is_kernel
    assert "no more than five rows" in choose("int4_matmul", "cpu", (few, many)).reason


@pytest.mark.parametrize(
    ("error", "tests"), [(RuntimeError("no C compiler"), 1), (torch.OutOfMemoryError("CUDA out of memory"), 2)]
)
def test_self_tests_are_made_once_and_again_only_after_memory_ran_out(
    error: Exception, tests: int, supported: Callable[[Function], None]
) -> None:
    failures = iter([error])

    def kernel(*arguments: Any) -> Tensor:
        for failure in failures:
            raise failure
        return reference.silu_gate(*arguments)

    made: list[int] = []

    def counted(device: torch.device) -> tuple[Any, ...]:
        made.append(1)
        return silu_gate_sample(device, torch.float32)

    supported(kernel)
    first, *later = (choose("silu_gate", "cpu", (Sample(counted),)) for _ in range(3))
    assert not first.is_kernel and str(error) in first.reason
    # A kernel and its reference each get arguments of their own; of a kernel that fails, the reference gets none.
    assert len(made) == {1: 1, 2: 3}[tests] and {choice.is_kernel for choice in later} == {tests == 2}
