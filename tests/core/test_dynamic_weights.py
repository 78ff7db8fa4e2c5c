"""int8-dynamic and fp8 weights: multiplied with inputs of 8 bits where a device can, and what is done elsewhere."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import cpu_matmuls
from lumina_core import device as devices
from lumina_core.checkpoint.values import check_values
from lumina_core.decoding.memory_plan import Demand, plan_memory
from lumina_core.decoding.request import Request
from lumina_core.errors import CheckpointError, InputError
from lumina_core.kernels.samples import int8_sample
from lumina_core.kernels.window_state import Sampling
from lumina_core.model import fused
from lumina_core.model.load import load_transformer
from lumina_core.model.run_kernels import RunKernels
from lumina_core.quant import dynamic_int8
from lumina_core.quant.dynamic_int8 import int8_dynamic_backend, int8_dynamic_matmul, int8_dynamic_reference
from lumina_core.quant.linear import PLAIN, QuantizedLinear, quantized_operations
from lumina_core.quant.schemes import FLOAT8, SCHEMES, Float8
from lumina_core.quant.select import choose_backend
from lumina_core.quant.torchao_backend import (
    TEST_ROWS,
    VERSIONS,
    float8_failure,
    float8_reference,
    float8_sample,
    import_float8,
    torchao_backend,
)
from lumina_core.quant.weights import WeightsPlan, check_device_holds
from lumina_core.timing.synthetic import SYNTHETIC

from ..kernel_cases import window_states
from .test_fused import FUSED
from .test_quant import make_linear, weights

BF16 = torch.bfloat16


# int8-dynamic


@pytest.mark.parametrize("size", [(256, 96), (100, 70), (11, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, BF16, torch.float16])
def test_a_row_has_the_reference_result_whatever_the_other_rows(size: tuple[int, int], dtype: torch.dtype) -> None:
    """Bit for bit, so that windows of any width draw the same tokens."""
    x, *weight = int8_sample("cpu", dtype, rows=70, in_features=size[0], out_features=size[1])
    expected = int8_dynamic_reference(x, *weight)
    assert expected.dtype == dtype
    for first, end in ((0, 1), (0, 2), (1, 4), (0, 5), (3, 36), (0, 70)):
        assert torch.equal(int8_dynamic_matmul(x[first:end], *weight), expected[first:end])


def test_inputs_in_8_bits_change_a_result_little() -> None:
    layer, x = make_linear(SCHEMES["int8-dynamic"], weights(96, 1024)), torch.randn(2, 5, 1024)
    expected, layer.backend = layer(x), int8_dynamic_backend("cpu")
    assert layer(x).shape == expected.shape and (layer(x) - expected).norm() < 0.015 * expected.norm()


def test_rows_that_are_extreme_stay_finite() -> None:
    _, *weight = int8_sample("cpu", torch.float32)
    x = torch.stack([torch.zeros(256), torch.full((256,), 1e30), torch.full((256,), 1e-42)])
    found = int8_dynamic_matmul(x, *weight)
    assert found.isfinite().all() and not found[0].any()


def test_many_rows_are_multiplied_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = make_linear(SCHEMES["int8-dynamic"], weights(48, 128)), torch.randn(1, 30, 128)
    layer.backend = int8_dynamic_backend("cpu")
    expected = layer(x)
    monkeypatch.setattr(dynamic_int8, "ROWS_AT_A_TIME", 7)
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("rows", [1, 16, 17, 40])
def test_cuda_gets_the_rows_that_its_matmul_takes(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch refuses 16 rows and fewer, and rows that are no multiple of 8 in some versions."""

    def int_mm(one: Tensor, other: Tensor) -> Tensor:
        assert len(one) > 16 and len(one) % 8 == 0
        return (one.int() @ other.int()).int()

    _, codes, _ = int8_sample("cpu", torch.float32)
    few = torch.randint(-127, 128, (rows, 256), dtype=torch.int8)
    expected = torch._int_mm(few, codes.t())
    monkeypatch.setattr(torch, "_int_mm", int_mm)
    assert torch.equal(dynamic_int8._cuda_product(few, codes), expected)


def test_a_device_without_a_fast_integer_matmul_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = make_linear(SCHEMES["int8-dynamic"], weights(96, 256)), torch.randn(5, 256)
    layer.backend = int8_dynamic_backend("cpu")
    if not layer.backend.alike:
        pytest.skip(layer.backend.name)
    expected = layer(x)
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    layer.backend = int8_dynamic_backend("cpu")
    assert layer.backend_name.startswith("plain, inputs in 8 bits (") and torch.equal(layer(x), expected)


@torch.inference_mode()
def test_fused_blocks_take_weights_whose_matmuls_are_not_split() -> None:
    transformer = load_transformer("demo", weights="int8-dynamic", dtype=torch.float32)
    layer, x = transformer.blocks[0].mlp.gate_up_proj, torch.randn(3, transformer.config.hidden_size)
    assert torch.equal(fused.partial_sums(layer, x), layer(x)[None]) and layer.splits == 1
    (states, keys), (expected, expected_keys) = (window_states(transformer, "int8", k) for k in (FUSED, RunKernels()))
    assert torch.equal(states, expected) and torch.equal(keys, expected_keys)
    assert transformer.choose_kernels(Sampling(64), "int8", 4, 8).allocates


@pytest.mark.parametrize("name", ["fp8", "int8-dynamic"])
def test_the_estimate_counts_what_these_matmuls_take_beside_triton_kernels(name: str) -> None:
    config, request = SYNTHETIC["7b"].config, Request([[0] * 9], 32, 32)
    demands = [Demand(config, WeightsPlan(BF16, SCHEMES[one]), request, kernels=True) for one in (name, "int8")]
    found, int8 = map(plan_memory, demands)
    assert found.weights == int8.weights and found.forward == int8.forward + 4096 * 1024 * 10


def test_the_benchmark_of_a_cpu_times_every_kind_of_weights(capsys: pytest.CaptureFixture[str]) -> None:
    threads = str(torch.get_num_threads())
    cpu_matmuls.run(cpu_matmuls.parse_arguments(["--rows=2", "--inputs=128", "--outputs=64", "--threads", threads]))
    names = [line.split("|")[1].split(":")[0].strip() for line in capsys.readouterr().out.splitlines()[2:]]
    assert {*SCHEMES, "bf16", "int8, dequantised"} <= set(names)


# fp8


def test_every_value_of_fp8_is_dequantised_exactly() -> None:
    codes, scale = torch.arange(256, dtype=torch.uint8), torch.tensor([0.37])
    values = codes[(codes & 0x7F) != 0x7F].view(FLOAT8)  # those are NaN
    found = Float8().dequantize({"values": values[None], "scale": scale}, len(values))
    assert torch.equal(found[0], values.float() * scale)


@pytest.mark.parametrize("columns", [256, 130, 1])
def test_fp8_is_off_by_a_sixteenth_or_half_the_least_step(columns: int) -> None:
    """Three bits after the first: half a step is 1/16 of a value, and 2⁻¹⁰ below the least normal one."""
    weight = weights(40, columns)
    packed = Float8().quantize(weight)
    error = (Float8().dequantize(packed, columns) - weight).abs()
    assert (error <= torch.maximum(weight.abs() / 16, packed["scale"][:, None] * 2**-10) * 1.0001).all()
    assert (packed["values"].float().abs().amax(1) == 448).all()


@pytest.mark.parametrize("value", [0.0, 1e-40, 1e30])
def test_extreme_rows_stay_finite_in_fp8(value: float) -> None:
    row = torch.tensor([[value, -value / 2, 0.0]])
    found = Float8().dequantize(Float8().quantize(row), 3)
    torch.testing.assert_close(found, row, rtol=1 / 16, atol=1e-37)


@pytest.mark.parametrize(
    ("byte", "count", "fault"), [(0x7F, 1, "NaN"), (0xFF, 1, "NaN"), (0, 4096, "a hole"), (0, 2**16, "only zeros")]
)
def test_damaged_fp8_values_are_refused(byte: int, count: int, fault: str) -> None:
    values = torch.randn(64, 1024).to(FLOAT8)
    values.view(torch.uint8).view(-1)[:count] = byte
    with pytest.raises(CheckpointError, match=rf"f: `w` .*{fault}"):
        check_values("w", [values], "f")


def test_fp8_is_refused_on_a_device_that_does_not_hold_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_multiplies", lambda dtype, _: dtype != FLOAT8)
    for plan in (WeightsPlan(torch.float16, scheme) for scheme in SCHEMES.values()):
        if plan.name != "fp8":
            check_device_holds(plan, torch.device("mps"))
    with pytest.raises(InputError, match="mps does not compute in float8_e4m3fn; expected other weights"):
        check_device_holds(WeightsPlan(torch.float16, Float8()), torch.device("mps"))


# torchao


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A stand-in for an NVIDIA GPU that has fp8 matmuls."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 9))
    return monkeypatch


def torchao(monkeypatch: pytest.MonkeyPatch, module: ModuleType | None) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchao"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchao", module)


@pytest.mark.parametrize(
    ("capability", "dtype", "shape", "reason"),
    [
        ((8, 6), BF16, (256, 256), "compute capability (8, 6); fp8 matmuls need (8, 9) or more"),
        ((9, 0), torch.float16, (256, 256), "fp8 matmuls are for torch.bfloat16, not torch.float16"),
        ((9, 0), BF16, (256, 200), "fp8 matmuls are for inputs and outputs in multiples of 16, not (256, 200)"),
    ],
)
def test_fp8_is_dequantised_where_it_cannot_be_multiplied(
    capability: tuple[int, int], dtype: torch.dtype, shape: tuple[int, int], reason: str, gpu: pytest.MonkeyPatch
) -> None:
    """torchao is not asked for."""
    gpu.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    backend = choose_backend(Float8(), dtype, "cuda", [(16, 16), shape])
    assert backend.multiply is PLAIN.multiply and backend.name == f"plain ({reason})"


@pytest.mark.parametrize("version", [None, "0.10.0"])
def test_a_missing_or_strange_torchao_is_named_and_done_without(
    version: str | None, gpu: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = None if version is None else ModuleType("torchao")
    if module is not None:
        module.__version__ = version
    torchao(gpu, module)
    backend = choose_backend(Float8(), BF16, "cuda", [(256, 256)])
    (line,) = caplog.messages
    found = "torchao is not installed" if version is None else "torchao 0.10.0 has no fp8 matmul"
    assert found in line and VERSIONS in line and "\n" not in line and found in backend.name
    layer, x = make_linear(Float8(), weights(48, 256)), torch.randn(3, 256)
    layer.backend = backend
    assert torch.equal(layer(x), F.linear(x, layer.weight_rows(0, 48, x)))


def test_a_torchao_that_computes_something_else_or_nothing_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(values: Tensor, scale: Tensor) -> Tensor:
        raise TypeError("unexpected keyword\nat line 3")

    torchao(monkeypatch, None)
    for make_weight in (lambda values, scale: 1.1 * values.to(BF16), refuse):
        line = float8_failure(make_weight, "cpu")
        assert line.endswith(f"versions {VERSIONS} were tried") and "\n" not in line


@pytest.mark.slow
def test_torchao_multiplies_by_the_stored_values() -> None:
    """On a CPU, where it has a slow fp8 matmul; inputs of zeros included."""
    pytest.importorskip("torchao.quantization.quantize_")
    make_weight = import_float8()
    assert float8_failure(make_weight, "cpu") == ""
    x, *packed = float8_sample("cpu", rows=max(TEST_ROWS))
    layer: QuantizedLinear = quantized_operations(Float8(), nn).Linear(256, 96)
    layer.load_state_dict(dict(zip(layer.packed_names, packed, strict=True)))
    layer.backend = torchao_backend(make_weight, "cpu", "torchao")
    assert make_weight(*layer.packed_tensors.values()).qdata.data_ptr() == layer.values.data_ptr()
    found, expected = layer(x), float8_reference(x, *packed)
    assert (found - expected).norm() < 0.02 * expected.norm()
    assert torch.equal(layer(x[:1]), found[:1]) and torch.equal(layer(x[None, :5]), found[None, :5])


@pytest.mark.slow
def test_values_are_those_of_torchao() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    linear, packed = nn.Linear(512, 64, bias=False), Float8().quantize(weight := weights(64, 512))
    linear.weight.data = weight.clone()
    quantization.quantize_(linear, quantization.Float8WeightOnlyConfig(set_inductor_config=False))
    assert torch.equal(linear.weight.qdata.view(torch.uint8), packed["values"].view(torch.uint8))
    assert torch.equal(linear.weight.scale[:, 0], packed["scale"])


@pytest.mark.slow
def test_inputs_in_8_bits_are_near_those_of_torchao() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    linear, x = nn.Linear(512, 64, bias=False), torch.randn(9, 512)
    linear.weight.data = weights(64, 512)
    expected = F.linear(x, linear.weight)
    found = int8_dynamic_matmul(x, *SCHEMES["int8-dynamic"].quantize(linear.weight.detach()).values())
    config = quantization.Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)
    quantization.quantize_(linear, config)
    of_torchao = (linear(x) - expected).norm()
    assert (found - expected).norm() < 1.05 * of_torchao
