"""Steps on a CPU by torch's matmuls and attention in chunks, against plain torch: python -m benchmarks.cpu_steps

Random weights of the published 7B, int4 or int8, with an int8 cache. Both sides have the same weights, and take turns
at every window and context, so that a busy machine slows both. Plain torch dequantises the weights and the whole cache
for every step, and runs at least eight rows. `--layers 4` tries it in little; the head counts in full.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from types import MethodType
from typing import Any

import torch

from lumina_core.decoding.settings import DecodeSettings
from lumina_core.kernels.kv_tensor import KV_CACHES
from lumina_core.model.load import empty_transformer
from lumina_core.model.run_kernels import REFERENCE_ATTENTION, RunKernels
from lumina_core.model.transformer import Transformer
from lumina_core.quant.cpu_matmul import CPU_SCHEMES
from lumina_core.quant.linear import PLAIN, QuantizedLinear
from lumina_core.quant.schemes import SCHEMES
from lumina_core.quant.weights import WeightsPlan
from lumina_core.timing.steps import StepTimer, copy_bandwidth, timed
from lumina_core.timing.synthetic import SYNTHETIC, make_transformer

from .arguments import exit_code

CPU = torch.device("cpu")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table and JSON; returns 2 after one line on stderr for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--synthetic", choices=tuple(SYNTHETIC), default="7b")
    parser.add_argument("--layers", type=int, help="default: all of the model's")
    parser.add_argument("--weights", choices=CPU_SCHEMES, default="int4")
    parser.add_argument("--kv", choices=KV_CACHES, default="int8")
    parser.add_argument("--windows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--context", type=int, nargs="+", default=[1024, 5120])
    parser.add_argument("--rounds", type=int, default=3, help="steps of each side; the least time counts")
    options = parser.parse_args(arguments)
    return exit_code("cpu_steps", lambda: run(options))


@torch.inference_mode()
def run(options: argparse.Namespace) -> None:
    """Times both sides in turn."""
    config = SYNTHETIC[options.synthetic].config
    config = replace(config, num_hidden_layers=options.layers or config.num_hidden_layers)
    plan = WeightsPlan(torch.float32, SCHEMES[options.weights])
    fast = make_transformer(config, plan, CPU)
    settings = DecodeSettings(kv_cache=options.kv)
    sides = [StepTimer(one, max(options.context), max(options.windows), settings) for one in (fast, plain_copy(fast))]
    bandwidth = copy_bandwidth(CPU)
    print(f"{options.synthetic}, {config.num_hidden_layers} layers, {plan.name}, cache {options.kv}, float32, ", end="")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; copying moves {bandwidth / 1e9:.1f} GB/s")
    print(f"{fast.matmul_kernel}; {sides[0].cache.kernels.attention}")
    print("window  context  step ms  plain ms  times faster  share of the ceiling", flush=True)
    rows = []
    for context, window in itertools.product(options.context, options.windows):
        rows.append(compare(sides, window, context, options.rounds, bandwidth))
        row = rows[-1]
        print(f"{window:6}  {context:7}  {row['ms']:7.0f}  {row['plain_ms']:8.0f}  {row['faster']:12.1f}", end="")
        print(f"  {row['share']:20.0%}", flush=True)
    print(json.dumps({"copy_bytes_per_second": bandwidth, "torch": torch.__version__, "steps": rows}))


def compare(sides: list[StepTimer], window: int, context: int, rounds: int, bandwidth: float) -> dict[str, Any]:
    """The least milliseconds of a step of both sides."""
    steps = [side.step_at(window, context) for side in sides]
    for step in steps:
        step.run(1)
    times = [[timed(lambda step=step: step.run(1), CPU) for step in steps] for _ in range(rounds)]
    ours, plain = (1000 * min(column) for column in zip(*times, strict=True))
    share = 1000 * sides[0].bytes_read(context) / bandwidth / ours
    return {"window": window, "context": context, "ms": ours, "plain_ms": plain, "faster": plain / ours, "share": share}


def plain_copy(fast: Transformer) -> Transformer:
    """The same weights multiplied by plain torch, with attention over the whole cache."""
    weights = next(layer.scheme for layer in fast.layers.modules() if isinstance(layer, QuantizedLinear))
    plain = empty_transformer(fast.config, WeightsPlan(fast.dtype, weights))
    state = dict(fast.state_dict())
    for name, layer in fast.named_modules():
        if isinstance(layer, QuantizedLinear) and layer.repacked and layer.backend.packed_rows is not None:
            rows = layer.backend.packed_rows(layer, 0, layer.out_features)
            state |= {f"{name}.{key}": tensor.contiguous() for key, tensor in rows.items()}
    plain.load_state_dict(state, strict=True, assign=True)
    plain.text_embedding, plain.text_head = fast.text_embedding, fast.text_head
    assert plain.backends == {PLAIN}
    plain.choose_kernels = MethodType(_whole_cache, plain)
    return plain.eval()


def _whole_cache(transformer: Transformer, *run: Any) -> RunKernels:
    kernels = Transformer.choose_kernels(transformer, *run)
    return replace(kernels, attention=REFERENCE_ATTENTION, in_chunks=False)


if __name__ == "__main__":
    sys.exit(main())
