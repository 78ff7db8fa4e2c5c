"""int8-dynamic and fp8 weights on a GPU: the results of their references, and steps that can be captured."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lumina_core.kernels.samples import int8_sample
from lumina_core.kernels.select import unsupported_device_reason
from lumina_core.quant.dynamic_int8 import int8_dynamic_reference
from lumina_core.quant.linear import QuantizedLinear
from lumina_core.quant.schemes import SCHEMES
from lumina_core.quant.select import choose_backend
from lumina_core.quant.torchao_backend import FLOAT8_CAPABILITY, float8_reference

from .test_kernels import make_layer

UNSUPPORTED = unsupported_device_reason("cuda") if torch.cuda.is_available() else "there is no CUDA device"
pytestmark = pytest.mark.skipif(bool(UNSUPPORTED), reason=UNSUPPORTED)
BF16, SHAPE, ROWS = torch.bfloat16, (1024, 512), (1, 2, 16, 17, 64, 300)


def layer_of(scheme: str) -> QuantizedLinear:
    weight = torch.randn(SHAPE[1], SHAPE[0], generator=torch.Generator().manual_seed(0)) * 0.02
    layer = make_layer(SCHEMES[scheme], weight, choose_backend(SCHEMES[scheme], BF16, "cuda", [SHAPE]))
    layer.repack()
    return layer


def inputs() -> Tensor:
    return int8_sample("cuda", BF16, rows=max(ROWS), in_features=SHAPE[0])[0]


def replayed(layer: QuantizedLinear, x: Tensor) -> Tensor:
    """The result of a captured matmul."""
    layer(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = layer(x)
    graph.replay()
    return found


def test_int8_inputs_give_the_result_of_the_reference_at_any_number_of_rows() -> None:
    layer, x = layer_of("int8-dynamic"), inputs()
    assert layer.backend.alike, layer.backend_name
    expected = int8_dynamic_reference(x, *layer.packed_tensors.values())
    for rows in ROWS:
        assert torch.equal(layer(x[:rows]), expected[:rows])
    assert torch.equal(replayed(layer, x[:2]), expected[:2])


def test_fp8_inputs_give_nearly_the_result_of_the_reference() -> None:
    pytest.importorskip("torchao")
    if (capability := torch.cuda.get_device_capability()) < FLOAT8_CAPABILITY:
        pytest.skip(f"compute capability {capability}")
    layer, x = layer_of("fp8"), inputs()
    assert layer.backend_name.startswith("torchao"), layer.backend_name
    for rows in ROWS:
        found, expected = layer(x[:rows]).float(), float8_reference(x[:rows], *layer.packed_tensors.values()).float()
        assert (found - expected).norm() < 0.02 * expected.norm()
    assert torch.equal(replayed(layer, x[:2]), layer(x[:2]))
