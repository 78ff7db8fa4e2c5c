"""int8 and int4 weights: as near as their scales allow, multiplied as they are."""

from __future__ import annotations

import struct

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lumina_core.errors import CheckpointError, InputError
from lumina_core.kernels import reference
from lumina_core.kernels.reference import pack_codes, unpack_codes
from lumina_core.kernels.select import Choice
from lumina_core.quant import linear as linear_module
from lumina_core.quant import schemes as schemes_module
from lumina_core.quant import select as select_module
from lumina_core.quant.linear import QuantizedLinear, quantized_operations
from lumina_core.quant.schemes import SCHEMES, Int4, Int8, Scheme, quantize
from lumina_core.quant.select import choose_again, choose_backend
from lumina_core.quant.triton_matmul import triton_backend
from lumina_core.quant.weights import CHOICES, WeightsPlan, plan_weights

ALL = [Int8(), Int4()]
WIDTHS = [256, 128, 96, 130, 255, 1]
# A scale or zero that is rounded to bfloat16 is off by this share of itself at most.
BF16_STEP = 2**-8


def weights(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Bell-shaped, a few far out, with a middle that is not 0: what makes rounding hard."""
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.02 + 0.003
    values[::7, ::31] *= 5
    return values


def restored(scheme: Scheme, weight: Tensor) -> Tensor:
    return scheme.dequantize(scheme.quantize(weight), weight.shape[1])


def per_weight(groups: Tensor, columns: int) -> Tensor:
    """A value [rows,groups] for every weight [rows,columns]."""
    return groups.float().repeat_interleave(128, 1)[:, :columns]


def make_linear(scheme: Scheme, weight: Tensor) -> QuantizedLinear:
    layer = quantized_operations(scheme, nn).Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.load_state_dict(scheme.quantize(weight))
    return layer


def test_every_code_has_its_place_in_a_word() -> None:
    """The place is part of the format of converted files."""
    for index in range(128):
        codes = torch.zeros(1, 1, 128)
        codes[..., index] = 15
        word = 0xF << 4 * (index // 32 + 4 * (index % 2))
        expected = [word if at == index % 32 // 2 else 0 for at in range(16)]
        packed = pack_codes(codes)
        assert packed.numpy().tobytes() == struct.pack("<16I", *expected)
        assert torch.equal(unpack_codes(packed), codes)


def test_any_bytes_are_codes_and_back() -> None:
    packed = torch.randint(0, 256, (3, 5 * 64), dtype=torch.uint8)
    codes = unpack_codes(packed)
    assert codes.shape == (3, 5, 128) and set(codes.unique().tolist()) <= set(range(16))
    assert torch.equal(pack_codes(codes), packed)


@pytest.mark.parametrize("columns", WIDTHS)
def test_int8_is_off_by_half_a_step(columns: int) -> None:
    weight = weights(40, columns)
    packed = Int8().quantize(weight)
    error = (Int8().dequantize(packed, columns) - weight).abs()
    assert (error <= 0.5001 * packed["scale"][:, None]).all()
    assert (packed["codes"].abs().amax(1) == 127).all()


@pytest.mark.parametrize("columns", WIDTHS)
def test_int4_is_off_by_half_a_step_and_what_bfloat16_loses(columns: int) -> None:
    weight = weights(40, columns)
    packed = Int4().quantize(weight)
    scale, zero = (per_weight(part, columns) for part in packed["scale_zero"].unbind(-1))
    error = (Int4().dequantize(packed, columns) - weight).abs()
    assert (error <= 0.5001 * scale + BF16_STEP * (8 * scale + zero.abs())).all()


@pytest.mark.parametrize("scheme", ALL, ids=repr)
def test_more_bits_are_nearer(scheme: Scheme) -> None:
    weight = weights(64, 1024)
    error = (restored(scheme, weight) - weight).norm() / weight.norm()
    assert error < (0.02 if scheme.name == "int8" else 0.13)


@pytest.mark.parametrize("scheme", ALL, ids=repr)
@pytest.mark.parametrize(
    "row",
    [
        pytest.param(torch.zeros(200), id="zeros"),
        pytest.param(torch.full((200,), 0.5), id="one number"),
        pytest.param(torch.full((200,), -1e-40), id="one tiny number"),
        pytest.param(torch.linspace(-1e-38, 1e-38, 200), id="tiny"),
        pytest.param(torch.linspace(-1e30, 1e30, 200), id="huge"),
        pytest.param(F.one_hot(torch.tensor(150), 200).float(), id="one alone"),
        pytest.param(torch.tensor([3.0, -3.0]).repeat(100), id="two numbers"),
    ],
)
def test_extreme_rows_stay_finite_and_near(scheme: Scheme, row: Tensor) -> None:
    found = restored(scheme, row[None])[0]
    step = (row.max() - row.min()) / (254 if scheme.name == "int8" else 15)
    assert found.isfinite().all()
    assert ((found - row).abs() <= 0.75 * step + BF16_STEP * row.abs().max() + 1e-37).all()


@pytest.mark.parametrize("scheme", ALL, ids=repr)
def test_rows_do_not_depend_on_one_another(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = weights(50, 300)
    whole = quantize(scheme, weight.bfloat16(), "cpu", "w")
    monkeypatch.setattr(schemes_module, "CPU_ELEMENTS", 300 * 7)
    in_parts = quantize(scheme, weight.bfloat16(), "cpu", "w")
    alone = scheme.quantize(weight.bfloat16()[31:32].float())
    for name, tensor in whole.items():
        assert torch.equal(tensor, in_parts[name]) and torch.equal(tensor[31:32], alone[name])


@pytest.mark.parametrize("scheme", ALL, ids=repr)
@pytest.mark.parametrize("columns", WIDTHS)
def test_packed_tensors_have_their_specs(scheme: Scheme, columns: int) -> None:
    packed, specs = scheme.quantize(weights(5, columns)), scheme.packed_specs(columns)
    assert list(packed) == list(specs)
    for name, spec in specs.items():
        assert (packed[name].shape, packed[name].dtype) == ((5, *spec.columns), spec.dtype)


def test_int4_takes_four_and_a_quarter_bits() -> None:
    stored = sum(tensor.nbytes for tensor in Int4().quantize(weights(8, 4096)).values())
    assert 8 * stored == 4.25 * 8 * 4096


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38, -2e36])
def test_number_that_is_none_is_refused_by_the_name_of_its_tensor(scheme: Scheme, bad: float) -> None:
    weight = weights(4, 8)
    weight[3, 5] = bad
    with pytest.raises(CheckpointError, match=r"`a\.b` holds numbers that are not finite"):
        quantize(scheme, weight, "cpu", "a.b")


@pytest.mark.parametrize("scheme", ALL, ids=repr)
@pytest.mark.parametrize("columns", [256, 96])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_matmul_is_that_with_the_dequantised_weight(scheme: Scheme, columns: int, dtype: torch.dtype) -> None:
    weight, x = weights(48, columns), torch.randn(2, 9, columns, dtype=dtype)
    found = make_linear(scheme, weight)(x)
    assert found.dtype == dtype and torch.equal(found, F.linear(x, restored(scheme, weight).to(dtype)))


@pytest.mark.parametrize("scheme", ALL, ids=repr)
def test_plain_matmul_in_parts_is_the_same(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = weights(48, 256), torch.randn(9, 256)
    layer = make_linear(scheme, weight)
    monkeypatch.setattr(linear_module, "PLAIN_ELEMENTS", 256 * 20)
    assert layer.rows_at_a_time == 20 and layer.scratch_bytes == 256 * 20 * 10
    torch.testing.assert_close(layer(x), F.linear(x, restored(scheme, weight)), atol=1e-6, rtol=1e-5)


def test_torchs_own_kernel_takes_the_numbers_as_they_are() -> None:
    """`_weight_int4pack_mm` reads scale · (code − 8) + zero, scales and zeros as [groups,out,2]."""
    if not hasattr(torch, "_weight_int4pack_mm_for_cpu"):
        pytest.skip("this torch has no int4 matmul for the CPU")
    weight, x = weights(64, 256), torch.randn(16, 256).bfloat16()
    packed = Int4().quantize(weight)
    reordered = torch._convert_weight_to_int4pack_for_cpu(unpack_codes(packed["packed"]).flatten(1).int(), 1)
    scales_and_zeros = packed["scale_zero"].transpose(0, 1).contiguous()
    found = torch._weight_int4pack_mm_for_cpu(x, reordered, 128, scales_and_zeros)
    torch.testing.assert_close(found.float(), make_linear(Int4(), weight)(x.float()), atol=2e-2, rtol=1e-2)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_layer_is_a_module_that_any_memory_manager_can_move(scheme: Scheme) -> None:
    layer = make_linear(scheme, weights(8, 130))
    assert set(layer.state_dict()) == set(scheme.packed_specs(130)) == {name for name, _ in layer.named_parameters()}
    assert not any(part.requires_grad for part in layer.parameters()) and not list(layer.buffers())
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    layer.to("meta")
    assert all(part.is_meta for part in layer.parameters())
    layer.load_state_dict(before, assign=True)
    assert layer(torch.randn(3, 130)).shape == (3, 8)


@pytest.mark.parametrize("choice", CHOICES)
def test_choice_for_plain_weights(choice: str) -> None:
    plan = plan_weights(choice, None, torch.float16)
    expected = {"bf16": torch.bfloat16, "fp32": torch.float32}.get(choice, torch.float16)
    assert plan == WeightsPlan(expected, SCHEMES.get(choice))
    assert plan.name == ("fp16" if choice == "auto" else choice)


@pytest.mark.parametrize("stored", SCHEMES)
def test_choice_for_stored_weights(stored: str) -> None:
    int8 = {"int8", "int8-dynamic"}
    for choice in CHOICES:
        if choice in ("auto", stored) or {choice, stored} == int8:
            scheme = SCHEMES[stored if choice == "auto" else choice]
            assert plan_weights(choice, stored, torch.float32) == WeightsPlan(torch.float32, scheme)
        else:
            with pytest.raises(InputError, match=f"weights is {choice} .* converted to {stored}"):
                plan_weights(choice, stored, torch.float32)


def test_unknown_choice_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"weights is 'int3'; expected one of auto, bf16, fp32, fp16, int8, int4, fp8, int8-dynamic"
    ):
        plan_weights("int3", None, torch.float32)


def test_a_layer_that_waits_on_the_cpu_multiplies_there_by_plain_torch() -> None:
    backend = triton_backend(Choice(lambda *_: pytest.fail("the kernel was called"), True, "self-tested"))
    layer, x = make_linear(Int4(), weights(48, 256)), torch.randn(2, 9, 256).bfloat16()
    assert backend.name == "triton (self-tested)" and torch.equal(backend.multiply(x, layer), layer(x))


@pytest.mark.parametrize("scheme", ALL, ids=lambda scheme: scheme.name)
def test_a_backend_is_chosen_again_where_there_was_no_memory_for_its_self_test(
    scheme: Scheme, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start of a run; a choice that stands is not made again."""
    kernel = Choice(lambda *_, **__: pytest.fail("the kernel was called"), True, "self-tested")
    choices = iter([Choice(reference.int8_matmul, False, "the self-test ran out of memory", may_change=True), kernel])
    monkeypatch.setattr(select_module, "choose", lambda *_: next(choices))
    weight, x = weights(96, 256), torch.randn(3, 256)
    backend = choose_backend(scheme, torch.bfloat16, "cuda")
    layer = quantized_operations(scheme, nn, backend).Linear(256, 96, bias=False)
    layer.load_state_dict(scheme.quantize(weight))
    layer.repack()
    assert layer.backend_name == "plain (the self-test ran out of memory)" and not layer.repacked
    expected = layer(x)
    for _ in range(2):
        choose_again([layer], torch.bfloat16, "cuda")
    assert layer.backend_name == "triton (self-tested)" and layer.repacked
    assert torch.equal(layer(x), expected)
