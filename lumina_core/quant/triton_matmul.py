"""The choice of a product with a quantised weight: one that gives it back in a GPU's registers, or plain torch."""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from ..kernels.reference import GROUP_SIZE
from ..kernels.samples import int4_sample, int8_sample
from ..kernels.select import Choice, Sample, choose
from ..kernels.tiles import split_count
from .linear import Kernel, QuantizedLinear, multiply_plain
from .schemes import Pieces, Scheme
from .tinygemm import Tinygemm, choose_tinygemm

# For more rows, as a prompt has, giving the weight back once for all costs less than doing so for every tile of rows.
MOST_ROWS = 1024
# Of the self-tests: one for each tile of rows that the kernels have.
TEST_ROWS = (5, 32, 64, 128)
# Inputs and outputs of the 7B's layers, where a caller names no others.
PUBLISHED_SHAPES = ((4096, 12_288), (4096, 4096), (4096, 22_016), (11_008, 4096))
FORMAT = torch.bfloat16
SAMPLES = {"int4": int4_sample, "int8": int8_sample}


def choose_kernel(
    scheme: Scheme,
    dtype: torch.dtype,
    device: torch.device | str,
    shapes: Iterable[tuple[int, int]] = PUBLISHED_SHAPES,
) -> Kernel:
    """The way to multiply inputs in `dtype` on a device: a Triton kernel where it works, else torch's own for 4 bits.

    Where neither does, plain torch. Its name says which and why. `shapes` are (inputs, outputs) of the layers.
    """
    if dtype != FORMAT:
        return Kernel(f"plain (the kernels are for {FORMAT}, not {dtype})", multiply_plain)
    choice = choose(f"{scheme.name}_matmul", device, *matmul_samples(scheme, device, shapes))
    if choice.is_kernel:
        return in_registers(choice)
    if scheme.name != "int4":
        return Kernel(f"plain ({choice.reason})", multiply_plain)
    tinygemm, reason = choose_tinygemm(device)
    if tinygemm is None:
        too = "" if reason == choice.reason else f"; torch's own product: {reason}"
        return Kernel(f"plain ({choice.reason}{too})", multiply_plain)
    return by_tinygemm(tinygemm, f"tinygemm ({reason}; Triton: {choice.reason})")


def matmul_samples(
    scheme: Scheme, device: torch.device | str, shapes: Iterable[tuple[int, int]] = PUBLISHED_SHAPES
) -> list[Sample]:
    """Inputs for the self-tests of a kernel: each way in which it multiplies weights of these shapes, at every tile.

    The outputs are those of the layer, and decide how inputs are split; of the inputs there are only so many that a
    program works through two groups, or three of ragged ones.
    """
    small = {}
    for in_features, out_features in shapes:
        splits, rest = split_count(in_features, out_features), in_features % GROUP_SIZE
        inputs = min(in_features, 2 * splits * GROUP_SIZE + rest)
        small[splits, rest, out_features % 16] = {"in_features": inputs, "out_features": out_features}
    sample = SAMPLES[scheme.name]
    return [partial(sample, device, FORMAT, rows, **sizes) for sizes in small.values() for rows in TEST_ROWS]


def in_registers(choice: Choice) -> Kernel:
    """Multiplies by the function chosen what it is made for: few rows on a GPU; all else by plain torch."""

    def product(rows: Tensor, layer: QuantizedLinear, joined: bool) -> Tensor | None:
        if not rows.is_cuda or rows.dtype != FORMAT or len(rows) > MOST_ROWS:
            return None
        pieces = (getattr(layer, name).to(rows.device) for name in layer.piece_names)
        result: Tensor = choice.function(rows, *pieces, joined=joined)
        return result

    def multiply(x: Tensor, layer: QuantizedLinear) -> Tensor:
        found = product(x.flatten(0, -2), layer, joined=True)
        return multiply_plain(x, layer) if found is None else found.unflatten(0, x.shape[:-1])

    def split(x: Tensor, layer: QuantizedLinear) -> Tensor:
        found = product(x, layer, joined=False)
        return multiply_plain(x, layer)[None] if found is None else found

    return Kernel(str(choice), multiply, split)


def by_tinygemm(tinygemm: Tinygemm, name: str) -> Kernel:
    """Multiplies by torch's own product, for which weights are arranged; those of other shapes by plain torch."""

    def arrange(layer: QuantizedLinear) -> Pieces | None:
        fits = tinygemm.fits(layer.out_features, layer.in_features)
        return tinygemm.arranged(layer.stored) if fits else None

    def multiply(x: Tensor, layer: QuantizedLinear) -> Tensor:
        return tinygemm.multiply(x, layer.stored) if layer.arranged else multiply_plain(x, layer)

    return Kernel(name, multiply, arrange=arrange)
