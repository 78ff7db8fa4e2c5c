"""The selection of a backend for matmuls with quantised weights."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..kernels.reference import GROUP_SIZE
from ..kernels.samples import int4_sample, int8_sample
from ..kernels.select import PASSED, choose
from ..kernels.self_test import Sample
from ..kernels.tiles import split_count
from ..kernels.weight_tiles import TILE_ROWS
from .cpu_matmul import CPU_DTYPES, CPU_SCHEMES, cpu_backend
from .dynamic_int8 import int8_dynamic_backend
from .linear import MatmulBackend, QuantizedLinear, multiply_plain
from .schemes import SCHEMES, Scheme
from .tinygemm import tinygemm_backend, tinygemm_failure
from .torchao_backend import float8_backend
from .triton_matmul import KERNEL_DTYPE, kernel_tensors, repack, triton_backend
from .xpu_matmul import xpu_backend, xpu_failure

# Rows of the self-tests: one for each tile that the kernels have.
TEST_ROWS = (5, 32, 64, 128)
# Inputs and outputs of the 7B's layers.
PUBLISHED_SHAPES = ((4096, 12_288), (4096, 4096), (4096, 22_016), (11_008, 4096))
SAMPLES = {"int4": int4_sample, "int8": int8_sample}


def choose_backend(
    scheme: Scheme, dtype: torch.dtype, device: torch.device | str, shapes: Iterable[tuple[int, int]] = PUBLISHED_SHAPES
) -> MatmulBackend:
    """The backend for inputs in `dtype` on a device: a Triton kernel where it works, else tinygemm for int4.

    On a CPU torch's own matmul; for fp8 torchao's; for int8-dynamic torch's of integers; plain torch where none of
    them works. The name says which and why. `shapes` are (inputs, outputs) of the layers.
    """
    if scheme.name == "fp8":
        return float8_backend(dtype, device, shapes)
    if scheme.name == "int8-dynamic":
        return int8_dynamic_backend(device)
    if torch.device(device).type == "cpu" and scheme.name in CPU_SCHEMES and dtype in CPU_DTYPES:
        return cpu_backend(scheme.name)
    if dtype != KERNEL_DTYPE:
        return MatmulBackend(f"plain (the kernels are for {KERNEL_DTYPE}, not {dtype})", multiply_plain)
    choice = choose(f"{scheme.name}_matmul", device, matmul_samples(scheme.name, shapes))
    if choice.is_kernel:
        return triton_backend(choice)
    if choice.may_change:
        # Not tinygemm, whose order of weights the kernel could not take later.
        return MatmulBackend(f"plain ({choice.reason})", multiply_plain, may_change=True)
    if scheme.name != "int4":
        return MatmulBackend(f"plain ({choice.reason})", multiply_plain)
    name, failure, backend = "tinygemm", tinygemm_failure, tinygemm_backend
    if torch.device(device).type == "xpu":
        name, failure, backend = "torch's int4 matmul", xpu_failure, xpu_backend
    if reason := failure(device):
        too = "" if reason == choice.reason else f"; {name}: {reason}"
        return MatmulBackend(f"plain ({choice.reason}{too})", multiply_plain)
    return backend(device, f"{name} ({PASSED}; Triton: {choice.reason})")


def choose_again(layers: Iterable[QuantizedLinear], dtype: torch.dtype, device: torch.device | str) -> None:
    """Chooses the backend of layers again for which there was no memory for a self-test, in place."""
    waiting = [layer for layer in layers if layer.backend.may_change]
    if not waiting:
        return
    shapes = dict.fromkeys((layer.in_features, layer.out_features) for layer in waiting)
    backend = choose_backend(waiting[0].scheme, dtype, device, shapes)
    for layer in waiting:
        layer.backend = backend
        layer.repack()


def matmul_samples(scheme: str, shapes: Iterable[tuple[int, int]] = PUBLISHED_SHAPES) -> tuple[Sample, ...]:
    """Samples for every way in which the kernel multiplies by weights of these shapes, at every tile.

    The outputs are the layer's, since they decide the splits; the inputs are as few as give a program two groups, or
    three where the last group is incomplete. The weights are in the order that a layer of this shape has.
    """
    small = {}
    for in_features, out_features in shapes:
        splits, rest = split_count(in_features, out_features), in_features % GROUP_SIZE
        inputs = min(in_features, 2 * splits * GROUP_SIZE + rest)
        small[splits, rest, out_features % TILE_ROWS] = {"in_features": inputs, "out_features": out_features}
    of_all = partial(Sample.of, matmul_sample, scheme=scheme, dtype=KERNEL_DTYPE)
    return tuple(of_all(rows=rows, **sizes) for sizes in small.values() for rows in TEST_ROWS)


def matmul_sample(device: torch.device | str, *, scheme: str, **sizes: Any) -> tuple[Tensor, ...]:
    """Arguments of a scheme's matmul, with the weight in the order that a layer of this shape has."""
    x, *packed = SAMPLES[scheme](device, **sizes)
    backend = MatmulBackend("", multiply_plain, repack=repack)
    with torch.device("meta"):
        layer = QuantizedLinear(SCHEMES[scheme], backend, x.shape[1], len(packed[0]))
    layer.load_state_dict(dict(zip(layer.packed_names, packed, strict=True)), assign=True)
    layer.repack()
    return x, *kernel_tensors(layer)
