"""The matmul of a linear layer: right, the same for a row in any batch, and torch's own wherever oneDNN is not."""

import logging

import pytest
import torch
from torch.nn import functional as F

from lumina_core.kernels import linear as linear_module
from lumina_core.kernels.linear import MIN_ELEMENTS, linear

OUT, IN = 1549, 256


@pytest.fixture
def operands() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(200, IN, generator=generator), torch.randn(OUT, IN, generator=generator) / IN**0.5


@torch.inference_mode()
def test_it_is_the_matmul(operands):
    x, weight = operands
    exact = x.double() @ weight.double().T
    assert (linear(x, weight).double() - exact).abs().max() < 1e-5
    assert (linear(x[:6].reshape(2, 3, IN), weight).double() - exact[:6].reshape(2, 3, OUT)).abs().max() < 1e-5


@torch.inference_mode()
def test_a_row_is_the_same_in_any_batch(operands):
    x, weight = operands
    assert weight.numel() >= MIN_ELEMENTS
    whole = linear(x, weight)
    for rows in (8, 9, 16, 31, 64, 100):
        assert torch.equal(linear(x[:rows], weight), whole[:rows])
        assert torch.equal(linear(x[-rows:], weight), whole[-rows:])


@torch.inference_mode()
def test_a_view_with_gaps_is_multiplied_as_its_copy(operands):
    x, weight = operands
    wide = torch.cat((x, x), dim=-1)
    assert torch.equal(linear(wide[:, :IN], weight), linear(x, weight))


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_go_to_torch(operands, dtype):
    x, weight = (part.to(dtype) for part in operands)
    assert torch.equal(linear(x, weight), F.linear(x, weight))


def test_gradients_pass(operands):
    x, weight = operands
    weight.requires_grad_()
    linear(x, weight).sum().backward()
    assert torch.allclose(weight.grad[0], x.sum(0), atol=1e-3)


@torch.inference_mode()
def test_a_torch_without_onednn_is_served_and_it_is_logged(operands, monkeypatch, caplog):
    x, weight = operands
    linear_module._onednn.cache_clear()

    class Missing:
        def __getattr__(self, name):
            raise AttributeError(name)

    monkeypatch.setattr(linear_module.torch.ops, "mkldnn", Missing())
    monkeypatch.setattr(linear_module.torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(linear_module.platform, "machine", lambda: "x86_64")
    with caplog.at_level(logging.INFO, logger="lumina_core"):
        assert torch.equal(linear(x, weight), F.linear(x, weight))
    assert "torch's own matmul" in caplog.text
    linear_module._onednn.cache_clear()


@torch.inference_mode()
def test_a_refusal_of_memory_is_no_verdict_on_onednn(operands, monkeypatch):
    x, weight = operands
    linear_module._onednn.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(linear_module.platform, "machine", lambda: "x86_64")
        patch.setattr(linear_module.torch, "zeros", refuse)
        with pytest.raises(RuntimeError, match="could not create a primitive"):
            linear(x, weight)
    expected = linear_module.linear_kernel(weight)
    linear_module._onednn.cache_clear()
    assert linear_module.linear_kernel(weight) == expected


def refuse(*_, **__):
    raise RuntimeError("could not create a primitive")
