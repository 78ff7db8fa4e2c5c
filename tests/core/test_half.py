"""The computation in float16: what would overflow is in float32 or scaled, and the pictures are right."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.kernels.linear import multiply
from lumina_core.model.transformer import Transformer
from lumina_core.pipeline import Lumina

from .toys import toy_transformer

LARGEST = torch.finfo(torch.float16).max
IDS = torch.arange(40)[None] % 30


@pytest.fixture(scope="module")
def half(small: Lumina) -> Lumina:
    """The small model with its weights in float16."""
    return replace(small, transformer=copy.deepcopy(small.transformer).half())


def with_large(gate_up: float = 1, down: float = 1, attention: float = 1, swin_norm: bool = False) -> Transformer:
    """A toy with some weights scaled, in float32."""
    model = toy_transformer(32, hidden=64)
    if swin_norm:
        values = model.config.__dict__ | {"swin_norm": True}
        normed = Transformer(TransformerConfig(**values)).eval().requires_grad_(False)
        normed.load_state_dict(model.state_dict())
        normed.text_embedding, normed.text_head = model.text_embedding, model.text_head
        model = normed
    for block in model.blocks:
        block.mlp.gate_up_proj.weight.mul_(gate_up)
        block.mlp.down_proj.weight.mul_(down)
        block.self_attn.o_proj.weight.mul_(attention)
        block.self_attn.qkv_proj.weight[-64:].mul_(attention)  # the values
    return model


def largest_within(model: Transformer) -> float:
    """The largest number that a layer gives or takes in float32."""
    seen = [0.0]

    def look(_: object, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.extend(float(each.abs().max()) for each in (*inputs, output) if isinstance(each, Tensor))

    hooks = [layer.register_forward_hook(look) for layer in model.modules()]
    model(IDS)
    for hook in hooks:
        hook.remove()
    return max(seen)


@pytest.mark.parametrize(
    "make",
    [
        lambda: with_large(gate_up=30, down=100),
        lambda: with_large(attention=150),
        lambda: with_large(gate_up=150),
        lambda: with_large(gate_up=150, down=150, attention=150),
        lambda: with_large(gate_up=150, swin_norm=True),
    ],
    ids=["residual", "attention", "gate times up", "all", "norms after"],
)
def test_what_would_overflow_is_finite_and_right(make: Callable[[], Transformer]) -> None:
    model = make()
    assert largest_within(model) > LARGEST
    expected = model(IDS)
    found = model.half()(IDS)
    assert found.isfinite().all()
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_a_row_is_multiplied_alike_whatever_the_others_are() -> None:
    x, weight = torch.randn(16, 256) * 1e6, torch.randn(64, 256).half()

    def layer(rows: Tensor) -> Tensor:
        return rows @ weight.T

    others = torch.cat((x[:8], 1e-3 * x[8:]))
    assert torch.equal(multiply(layer, x, torch.float16)[:8], multiply(layer, others, torch.float16)[:8])
    assert multiply(layer, torch.zeros(8, 256), torch.float16).eq(0).all()


@pytest.mark.parametrize("kv_cache", ["auto", "int8", "int4"])
def test_gumbel_draws_what_ar_draws(half: Lumina, kv_cache: str) -> None:
    gumbel, ar = (
        half.draw("a red square", 32, 32, seed=5, decoder=decoder, kv_cache=kv_cache).codes
        for decoder in ("gumbel", "ar")
    )
    assert torch.equal(gumbel, ar)


@pytest.mark.parametrize(
    "weights", ["fp16", *(pytest.param(scheme, marks=pytest.mark.slow) for scheme in ("int8", "int4"))]
)
def test_the_demo_draws_as_in_float32(weights: str) -> None:
    floats = "fp32" if weights == "fp16" else weights
    expected = Lumina.load("demo", device="cpu", weights=floats, dtype="fp32")
    found = Lumina.load("demo", device="cpu", weights=weights, dtype="fp16")
    assert found.transformer.dtype == torch.float16
    codes = [
        model.draw("a red square on a white background", 96, 96, seed=3, cfg_scale=1.25).codes
        for model in (expected, found)
    ]
    assert (codes[0] == codes[1]).float().mean() > 0.95


def test_the_law_is_that_of_float32() -> None:
    """Log-probabilities differ by rounding."""
    model = toy_transformer(32, hidden=64, seed=3)
    found, expected = (one(IDS).log_softmax(-1) for one in (copy.deepcopy(model).half(), model))
    assert found.dtype == torch.float32 and (found - expected).abs().max() < 0.05
