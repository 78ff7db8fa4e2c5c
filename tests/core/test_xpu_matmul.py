"""The int4 matmul of Intel GPUs, by a stand-in for torch's operator that takes what that takes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lumina_core.kernels import reference
from lumina_core.kernels.select import PASSED, Choice
from lumina_core.quant import select, xpu_matmul
from lumina_core.quant.linear import PLAIN, MatmulBackend, QuantizedLinear, quantized_operations
from lumina_core.quant.schemes import Int4

BF16 = torch.bfloat16


def int4pack_mm(rows: Tensor, packed: Tensor, group_size: int, scale: Tensor, zeros: Tensor) -> Tensor:
    """x @ (scale · (code − zero)) of unsigned 4-bit codes, neighbours along the inputs, the first in the low bits.

    The checks and the layout are those of `_weight_int4pack_mm_xpu` and `woq_matmul_int4` in PyTorch
    (aten/src/ATen/native/mkldnn/xpu: Blas.cpp, detail/WoQMatmul.cpp).
    """
    assert rows.dtype in (BF16, torch.float16) and rows.is_contiguous() and rows.dim() == 2
    assert packed.dtype == torch.int32 and packed.dim() == 2 and packed.is_contiguous()
    assert zeros.dtype == torch.int8 and group_size % 32 == 0
    out_features, groups = packed.shape[0], rows.shape[1] // group_size
    assert scale.shape == zeros.shape == (groups, out_features) and scale.dtype == rows.dtype
    assert scale.is_contiguous() and zeros.is_contiguous()
    codes = torch.stack([packed >> 4 * digit & 15 for digit in range(8)], -1).flatten(1)
    assert codes.shape == (out_features, rows.shape[1])
    by_groups = codes.view(out_features, groups, group_size).float()
    weight = (by_groups - zeros.T.float()[..., None]) * scale.T.float()[..., None]
    return (rows.float() @ weight.flatten(1).T).to(rows.dtype)


@pytest.fixture
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has the operator, for the CPU."""
    monkeypatch.setattr(torch.ops.aten, xpu_matmul.OPERATOR, int4pack_mm, raising=False)


def layer(out_features: int, in_features: int, backend: MatmulBackend = PLAIN) -> QuantizedLinear:
    weight = torch.randn(out_features, in_features, generator=torch.Generator().manual_seed(0)) * 0.02 + 0.01
    made = quantized_operations(Int4(), nn, backend).Linear(in_features, out_features, bias=False)
    made.load_state_dict(Int4().quantize(weight))
    return made


@pytest.mark.usefixtures("on_a_cpu")
@pytest.mark.parametrize("rows", [1, 33])
@pytest.mark.parametrize("dtype", [BF16, torch.float32])
def test_a_repacked_layer_gives_what_it_gave(rows: int, dtype: torch.dtype) -> None:
    plain, repacked = layer(64, 384), layer(64, 384, xpu_matmul.xpu_backend("cpu", "xpu"))
    repacked.repack()
    assert repacked.repacked and not torch.equal(repacked.packed, plain.packed)
    x = torch.randn(2, rows, 384, generator=torch.Generator().manual_seed(1)).to(dtype)
    found = repacked(x)
    assert found.shape == (2, rows, 64) and found.dtype == dtype
    torch.testing.assert_close(found, plain(x), atol=0.02, rtol=0.02)


@pytest.mark.usefixtures("on_a_cpu")
def test_incomplete_groups_are_multiplied_plainly() -> None:
    plain, other = layer(64, 200), layer(64, 200, xpu_matmul.xpu_backend("cpu", "xpu"))
    other.repack()
    x = torch.randn(3, 200).to(BF16)
    assert not other.repacked and torch.equal(other(x), plain(x))


@pytest.mark.usefixtures("on_a_cpu")
def test_the_self_test_passes_and_finds_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert xpu_matmul.xpu_failure("cpu") == ""
    monkeypatch.setattr(
        torch.ops.aten, xpu_matmul.OPERATOR, lambda rows, packed, *others: int4pack_mm(rows, packed.flip(1), *others)
    )
    assert xpu_matmul.xpu_failure("cpu").startswith("the self-test found an error of")


def test_intel_takes_it_where_it_works_and_else_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = Choice(reference.int4_matmul, False, "the kernels are for NVIDIA GPUs, not xpu")
    monkeypatch.setattr(select, "choose", lambda *_: choice)
    monkeypatch.setattr(select, "xpu_failure", lambda _: "the self-test failed")
    name = f"plain ({choice.reason}; torch's int4 matmul: the self-test failed)"
    assert select.choose_backend(Int4(), BF16, "xpu").name == name
    monkeypatch.setattr(select, "xpu_failure", lambda _: "")
    backend = select.choose_backend(Int4(), BF16, "xpu")
    assert backend.name == f"torch's int4 matmul ({PASSED}; Triton: {choice.reason})" and backend.repack is not None
