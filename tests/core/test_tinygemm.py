"""The tinygemm backend, compared with plain operations by the version of it that torch has for CPUs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lumina_core import load_transformer
from lumina_core.kernels import reference
from lumina_core.kernels.select import PASSED, Choice
from lumina_core.quant import select, tinygemm
from lumina_core.quant.linear import PLAIN, MatmulBackend, QuantizedLinear, quantized_operations
from lumina_core.quant.schemes import Int4
from lumina_core.quant.select import choose_backend

BF16 = torch.bfloat16
pytestmark = pytest.mark.skipif(
    not hasattr(torch, "_weight_int4pack_mm_for_cpu"), reason="this torch has no int4 matmul for the CPU"
)


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both operations as torch has them for CPUs; Triton does not work."""

    def convert(codes: Tensor) -> Tensor:
        return torch._convert_weight_to_int4pack_for_cpu(codes.int(), 1)

    def matmul(rows: Tensor, packed: Tensor, scale_zero: Tensor) -> Tensor:
        return torch._weight_int4pack_mm_for_cpu(rows, packed, 128, scale_zero)

    monkeypatch.setattr(tinygemm, "unsupported_device_reason", lambda device: "")
    monkeypatch.setattr(tinygemm, "convert", convert)
    monkeypatch.setattr(tinygemm, "matmul", matmul)
    choice = Choice(reference.int4_matmul, False, "triton cannot be imported")
    monkeypatch.setattr(select, "choose", lambda *_: choice)
    monkeypatch.setattr(select, "CPU_SCHEMES", ())


def layer(out_features: int, in_features: int, backend: MatmulBackend = PLAIN) -> QuantizedLinear:
    weight = torch.randn(out_features, in_features, generator=torch.Generator().manual_seed(0)) * 0.02
    made = quantized_operations(Int4(), nn, backend).Linear(in_features, out_features, bias=False)
    made.load_state_dict(Int4().quantize(weight))
    return made


@pytest.mark.parametrize("rows", [1, 2, 33, 300])
def test_a_repacked_layer_gives_what_it_gave(rows: int) -> None:
    backend = choose_backend(Int4(), BF16, "cpu")
    assert backend.name == f"tinygemm ({PASSED}; Triton: triton cannot be imported)"
    plain, repacked = layer(64, 256), layer(64, 256, backend)
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in repacked.packed_tensors.items()}
    repacked.repack()
    assert repacked.repacked and shapes == {
        name: (tensor.shape, tensor.dtype) for name, tensor in repacked.packed_tensors.items()
    }
    assert not torch.equal(repacked.packed, plain.packed)
    x = torch.randn(2, rows, 256).to(BF16)
    found = repacked(x)
    assert found.shape == (2, rows, 64) and found.dtype == BF16
    torch.testing.assert_close(found, plain(x), atol=0.02, rtol=0.02)
    torch.testing.assert_close(repacked.partial_sums(x[0])[0], plain(x[0]), atol=0.02, rtol=0.02)


@pytest.mark.parametrize(("out_features", "in_features"), [(64, 200), (60, 256)])
def test_a_shape_that_it_does_not_take_is_multiplied_plainly(out_features: int, in_features: int) -> None:
    plain, other = (
        layer(out_features, in_features, backend) for backend in (PLAIN, choose_backend(Int4(), BF16, "cpu"))
    )
    other.repack()
    assert not other.repacked and other.backend_name.startswith("plain (no weight of this shape: tinygemm")
    x = torch.randn(3, in_features).to(BF16)
    assert torch.equal(other(x), plain(x))


def test_repacked_weights_are_not_read_in_the_wrong_order() -> None:
    repacked = layer(64, 256, choose_backend(Int4(), BF16, "cpu"))
    repacked.repack()
    with pytest.raises(AssertionError, match="the backend's own order"):
        repacked.weight_rows(0, 8, torch.ones(1))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda rows, *_: torch.zeros(len(rows), 96, dtype=BF16), "the self-test found an error of 1 of the result"),
        (lambda *_: torch.ops.aten.no_such_operation, "the self-test failed: AttributeError"),
    ],
)
def test_a_failed_self_test_falls_back_and_says_why(
    wrong: object, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tinygemm, "matmul", wrong)
    backend = choose_backend(Int4(), BF16, "cpu")
    assert backend.multiply is PLAIN.multiply
    assert backend.name.startswith(f"plain (triton cannot be imported; tinygemm: {reason}")


def test_an_old_gpu_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tinygemm, "unsupported_device_reason", lambda device: "triton cannot be imported")
    assert choose_backend(Int4(), BF16, "cpu").name == "plain (triton cannot be imported)"


def test_a_model_is_repacked_when_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_transformer("demo", dtype=BF16, weights="int4")
    layers = [part for part in model.modules() if isinstance(part, QuantizedLinear)]
    assert layers and all(part.repacked == (part.in_features % 128 == 0) for part in layers)
    assert any(part.repacked for part in layers)
    monkeypatch.setattr(tinygemm, "unsupported_device_reason", lambda device: "not here")
    plain = load_transformer("demo", dtype=BF16, weights="int4")
    ids = torch.randint(0, model.config.vocab_size, (1, 20), generator=torch.Generator().manual_seed(0))
    found, expected = model(ids).float(), plain(ids).float()
    assert (found - expected).norm() < 0.03 * expected.norm()
