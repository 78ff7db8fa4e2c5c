"""A layer's weights in the tiles that the kernels read: the same weights, wherever they are multiplied by."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from lumina_core.kernels import reference
from lumina_core.kernels.select import Choice
from lumina_core.kernels.weight_tiles import from_tiles, to_tiles
from lumina_core.quant.linear import QuantizedLinear, quantized_operations
from lumina_core.quant.schemes import Scheme
from lumina_core.quant.select import SAMPLES, matmul_samples
from lumina_core.quant.triton_matmul import triton_backend

from .test_quant import ALL, make_linear, weights

# (inputs, outputs) of weights, and whether the kernels read them in tiles.
TILED_OR_NOT = {(256, 96): True, (200, 96): False, (256, 40): False}


def tiled_layer(scheme: Scheme, weight: Tensor) -> QuantizedLinear:
    """A layer of the Triton backend, repacked as when a model is loaded; its kernel must not be called."""
    backend = triton_backend(Choice(lambda *_, **__: pytest.fail("the kernel was called"), True, "self-tested"))
    layer = quantized_operations(scheme, nn, backend).Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.load_state_dict(scheme.quantize(weight))
    layer.repack()
    return layer


@pytest.mark.parametrize("scheme", ALL, ids=repr)
def test_tiles_are_the_rows_in_another_order(scheme: Scheme) -> None:
    packed = scheme.quantize(weights(96, 384))
    for tensor in packed.values():
        if tensor.dim() > 1:
            rows = tensor.view(torch.uint8).view(96, 3, -1)
            tiles = to_tiles(tensor, 3)
            assert torch.equal(from_tiles(tiles), tensor.flatten(1)) and tiles.is_contiguous()
            expected = rows[32 + 5, 2]
            if tensor.dtype == torch.int8:
                word, byte = torch.arange(128) % 64 // 4, torch.arange(128) % 4
                expected = expected[torch.arange(128) // 64 * 64 + byte % 2 * 32 + 2 * word + byte // 2]
            assert torch.equal(tiles.view(torch.uint8)[1, 2, 5].flatten(), expected)


@pytest.mark.parametrize("scheme", ALL, ids=repr)
@pytest.mark.parametrize(("rows", "columns", "tiled"), [(96, 256, True), (40, 256, False), (96, 200, False)])
def test_a_repacked_layer_gives_the_same_weights(scheme: Scheme, rows: int, columns: int, tiled: bool) -> None:
    """Wherever plain torch multiplies: on a CPU, where ComfyUI leaves a layer, and in a prefill."""
    weight, x = weights(rows, columns), torch.randn(3, columns)
    layer, plain = tiled_layer(scheme, weight), make_linear(scheme, weight)
    assert layer.repacked == tiled and layer.backend_name == "triton (self-tested)"
    assert (
        torch.equal(layer.packed_tensors[layer.packed_names[0]], plain.packed_tensors[layer.packed_names[0]]) != tiled
    )
    for first, end in ((0, rows), (5, 17), (31, 33), (32, rows), (rows - 3, rows + 20)):
        assert torch.equal(layer.weight_rows(first, end, x), plain.weight_rows(first, end, x))
    assert torch.equal(layer(x), plain(x))


@pytest.mark.parametrize("scheme", ALL, ids=repr)
def test_a_repacked_layer_that_is_moved_gives_the_same_weights(scheme: Scheme) -> None:
    weight, x = weights(64, 256), torch.randn(3, 256)
    layer = tiled_layer(scheme, weight)
    expected, shapes = layer(x), {name: spec.columns for name, spec in scheme.packed_specs(256).items()}
    assert {name: tensor.shape[1:] for name, tensor in layer.state_dict().items()} == shapes
    held = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    layer.to("meta").load_state_dict(held, assign=True)
    assert torch.equal(layer(x), expected) and torch.equal(deepcopy(layer)(x), expected)
    with pytest.raises(AssertionError, match="own order already"):
        layer.repack()


@pytest.mark.parametrize("scheme", SAMPLES)
def test_the_self_tests_of_a_matmul_have_the_order_of_a_run(scheme: str) -> None:
    dims = {size: {len(each("cpu")[1].shape) for each in matmul_samples(scheme, [size])} for size in TILED_OR_NOT}
    assert dims == {size: {4 if tiled else 2} for size, tiled in TILED_OR_NOT.items()}
    sample = matmul_samples(scheme, [(256, 96)])[0]
    assert hash(sample) == hash(matmul_samples(scheme, [(256, 96)])[0])
    x, *tiles = sample("cpu")
    neutral = SAMPLES[scheme]("cpu", **{k: v for k, v in sample.sizes if k != "scheme"})
    multiply = getattr(reference, f"{scheme}_matmul")
    assert torch.equal(multiply(x, *tiles), multiply(*neutral))
