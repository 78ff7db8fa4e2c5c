"""torch's own product with 4-bit weights, held against plain operations by the form of it that torch has for CPUs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lumina_core import load_transformer
from lumina_core.kernels import reference
from lumina_core.kernels.select import Choice
from lumina_core.quant import tinygemm, triton_matmul
from lumina_core.quant.linear import PLAIN, Kernel, QuantizedLinear, quantized_operations
from lumina_core.quant.schemes import Int4
from lumina_core.quant.triton_matmul import choose_kernel

BF16 = torch.bfloat16
pytestmark = pytest.mark.skipif(
    not hasattr(torch, "_weight_int4pack_mm_for_cpu"), reason="this torch has no 4-bit product for the CPU"
)


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both operations as torch has them for CPUs; Triton does not work."""

    def convert(codes: Tensor) -> Tensor:
        return torch._convert_weight_to_int4pack_for_cpu(codes.int(), 1)

    def product(rows: Tensor, packed: Tensor, scale_zero: Tensor) -> Tensor:
        return torch._weight_int4pack_mm_for_cpu(rows, packed, 128, scale_zero)

    monkeypatch.setattr(tinygemm, "unfit", lambda device: "")
    monkeypatch.setattr(tinygemm, "convert", convert)
    monkeypatch.setattr(tinygemm, "product", product)
    choice = Choice(reference.int4_matmul, "eager", "triton cannot be imported")
    monkeypatch.setattr(triton_matmul, "choose", lambda *_: choice)


def layer(out_features: int, in_features: int, kernel: Kernel = PLAIN) -> QuantizedLinear:
    weight = torch.randn(out_features, in_features, generator=torch.Generator().manual_seed(0)) * 0.02
    made = quantized_operations(Int4(), nn, kernel).Linear(in_features, out_features, bias=False)
    made.load_state_dict(Int4().quantize(weight))
    return made


@pytest.mark.parametrize("rows", [1, 2, 33, 300])
def test_an_arranged_layer_gives_what_it_gave(rows: int) -> None:
    kernel = choose_kernel(Int4(), BF16, "cpu")
    assert kernel.name == "tinygemm (tried on this device; Triton: triton cannot be imported)"
    plain, arranged = layer(64, 256), layer(64, 256, kernel)
    shapes = {name: (piece.shape, piece.dtype) for name, piece in arranged.stored.items()}
    arranged.arrange()
    assert arranged.arranged and shapes == {name: (piece.shape, piece.dtype) for name, piece in arranged.stored.items()}
    assert not torch.equal(arranged.packed, plain.packed)
    x = torch.randn(2, rows, 256).to(BF16)
    found = arranged(x)
    assert found.shape == (2, rows, 64) and found.dtype == BF16
    torch.testing.assert_close(found, plain(x), atol=0.02, rtol=0.02)
    torch.testing.assert_close(arranged.partial_sums(x[0])[0], plain(x[0]), atol=0.02, rtol=0.02)


@pytest.mark.parametrize(("out_features", "in_features"), [(64, 200), (60, 256)])
def test_a_shape_that_it_does_not_take_is_multiplied_plainly(out_features: int, in_features: int) -> None:
    plain, other = (layer(out_features, in_features, kernel) for kernel in (PLAIN, choose_kernel(Int4(), BF16, "cpu")))
    other.arrange()
    assert not other.arranged and other.kernel_name.startswith("plain (no weight of this shape: tinygemm")
    x = torch.randn(3, in_features).to(BF16)
    assert torch.equal(other(x), plain(x))


def test_arranged_weights_are_not_read_in_the_wrong_order() -> None:
    arranged = layer(64, 256, choose_kernel(Int4(), BF16, "cpu"))
    arranged.arrange()
    with pytest.raises(AssertionError, match="order of the kernel's own"):
        arranged.weight_rows(0, 8, torch.ones(1))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda rows, *_: torch.zeros(len(rows), 96, dtype=BF16), "a trial was off by 1 of the result"),
        (lambda *_: torch.ops.aten.no_such_operation, "a trial failed: AttributeError"),
    ],
)
def test_one_that_fails_its_trial_gives_way_and_says_why(
    wrong: object, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tinygemm, "product", wrong)
    kernel = choose_kernel(Int4(), BF16, "cpu")
    assert kernel.multiply is PLAIN.multiply
    assert kernel.name.startswith(f"plain (triton cannot be imported; torch's own product: {reason}")


def test_an_old_gpu_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tinygemm, "unfit", lambda device: "triton cannot be imported")
    assert choose_kernel(Int4(), BF16, "cpu").name == "plain (triton cannot be imported)"


def test_a_model_is_arranged_when_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_transformer("demo", dtype=BF16, weights="int4")
    layers = [part for part in model.modules() if isinstance(part, QuantizedLinear)]
    assert layers and all(part.arranged == (part.in_features % 128 == 0) for part in layers)
    assert any(part.arranged for part in layers)
    monkeypatch.setattr(tinygemm, "unfit", lambda device: "not here")
    plain = load_transformer("demo", dtype=BF16, weights="int4")
    ids = torch.randint(0, model.config.vocab_size, (1, 20), generator=torch.Generator().manual_seed(0))
    found, expected = model(ids).float(), plain(ids).float()
    assert (found - expected).norm() < 0.03 * expected.norm()
