"""Matmuls on a CPU by every kind of weights: python -m benchmarks.cpu_matmuls [--rows 1 2 8 16 32 64] [--threads 1]

Milliseconds of one matmul of a layer with random weights, inputs in bfloat16, the least of several. `torchao` is its
int8 matmul with the inputs quantised by rows, where torchao is installed; it is not what a run uses.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lumina_core.quant.linear import PLAIN, MatmulBackend, QuantizedLinear, quantized_operations
from lumina_core.quant.schemes import SCHEMES, Scheme, quantize
from lumina_core.quant.select import choose_backend

BF16 = torch.bfloat16
# A first call that takes longer is not repeated as often.
SLOW_SECONDS, FEW, MANY = 0.5, 2, 15


def matmuls(inputs: int, outputs: int) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """The name and the matmul of each kind of weights, as a run chooses it, and others for comparison."""
    weight = torch.randn(outputs, inputs) * 0.02
    plain = weight.to(BF16)
    yield "bf16", lambda x: F.linear(x, plain)
    for scheme in SCHEMES.values():
        backend = choose_backend(scheme, BF16, "cpu", [(inputs, outputs)])
        layer = _layer(scheme, weight, backend)
        yield f"{scheme.name}: {layer.backend_name}", layer
    yield "int8, dequantised", _layer(SCHEMES["int8"], weight, PLAIN)
    if (torchao := _torchao(**quantize(SCHEMES["int8"], weight, "cpu", "weight"))) is not None:
        yield "int8-dynamic by torchao", lambda x: F.linear(x, torchao)


def _layer(scheme: Scheme, weight: Tensor, backend: MatmulBackend) -> QuantizedLinear:
    layer: QuantizedLinear = quantized_operations(scheme, nn, backend).Linear(*reversed(weight.shape))
    layer.load_state_dict(quantize(scheme, weight, "cpu", "weight"))
    layer.repack()
    return layer


def _torchao(codes: Tensor, scale: Tensor) -> Tensor | None:
    """torchao's int8 weight for inputs that are quantised by rows; None without torchao."""
    try:
        tensors = importlib.import_module("torchao.quantization.quantize_.workflows.int8.int8_tensor")
        by_row = importlib.import_module("torchao.quantization.granularity").PerRow()
    except ImportError:
        return None
    inputs = tensors.QuantizeTensorToInt8Kwargs(by_row)
    return tensors.Int8Tensor(codes, scale[:, None], [1, codes.shape[1]], BF16, act_quant_kwargs=inputs)


def milliseconds(matmul: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """The least of several calls."""

    def seconds() -> float:
        start = time.perf_counter()
        matmul(x)
        return time.perf_counter() - start

    first = seconds()
    return 1e3 * min(seconds() for _ in range(FEW if first > SLOW_SECONDS else MANY))


@torch.inference_mode()
def run(options: argparse.Namespace) -> None:
    """Prints a table in Markdown."""
    torch.set_num_threads(options.threads)
    print(f"| {options.outputs:,} × {options.inputs:,}, rows | " + " | ".join(map(str, options.rows)) + " |")
    print("|---" * (len(options.rows) + 1) + "|")
    for name, matmul in matmuls(options.inputs, options.outputs):
        times = (milliseconds(matmul, torch.randn(rows, options.inputs).to(BF16)) for rows in options.rows)
        print(f"| {name} | " + " | ".join(f"{each:.1f}" for each in times) + " |", flush=True)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 8, 16, 32, 64])
    parser.add_argument("--inputs", type=int, default=4096)
    parser.add_argument("--outputs", type=int, default=22_016)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(parse_arguments())
