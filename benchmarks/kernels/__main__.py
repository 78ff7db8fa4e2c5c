"""The command line of the micro-benchmarks (see `benchmarks.kernels`)."""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch

from lumina_core.kernels.kv_tensor import KV_CACHES
from lumina_core.kernels.select import MODULES, unsupported_reason
from lumina_core.kernels.window_state import GUMBEL, RULES
from lumina_core.model.load import linear_shapes
from lumina_core.timing.steps import PROMPT_TOKENS, canvas_reaching, copy_bandwidth
from lumina_core.timing.synthetic import SYNTHETIC

from ..interpreter import prepare_interpreter
from ..whole_numbers import positive
from . import attention, matmul, rest
from .clock import Clock

LAYERS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")


def make_parser() -> argparse.ArgumentParser:
    """All options; a kernel ignores those that do not apply to it."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.kernels", description="Times one kernel, with the tiles in use unless others are named."
    )
    parser.add_argument("kernel", choices=tuple(MODULES))
    parser.add_argument("--model", choices=tuple(SYNTHETIC), default="7b", help="whose shapes")
    parser.add_argument("--rows", type=positive, nargs="+", default=[2, 16, 32, 64, 128], help="tokens, both branches")
    parser.add_argument("--warps", type=positive, nargs="+", help="of a program")
    parser.add_argument("--tree", type=positive, default=0, help="nodes of gumbel's draft tree beside the tokens")
    parser.add_argument("--rules", choices=RULES, nargs="+", default=[GUMBEL], help="of the kernels that move a window")
    matmuls = parser.add_argument_group("matmuls")
    matmuls.add_argument("--layers", choices=LAYERS, nargs="+", default=LAYERS)
    matmuls.add_argument("--outputs", type=positive, nargs="+", help="of a program; also of silu_gate")
    matmuls.add_argument("--stages", type=positive, nargs="+", help="of the software pipeline")
    matmuls.add_argument("--splits", type=positive, nargs="+", help="of the inputs; also of the sums for small kernels")
    matmuls.add_argument("--others", action="store_true", help="torch's own matmuls too: bfloat16, int4, fp8")
    cache = parser.add_argument_group("attention")
    cache.add_argument("--kv", choices=KV_CACHES, nargs="+", default=["int8"])
    cache.add_argument("--windows", type=positive, nargs="+", default=[1, 8, 16, 32, 64])
    cache.add_argument("--context", type=positive, nargs="+", default=[1024, 5120, 9216])
    cache.add_argument("--slots", type=positive, nargs="+", help="of the cache at a time")
    cache.add_argument("--chunks", type=positive, nargs="+", help="fewest slots of a chunk")
    return parser


def figures(options: argparse.Namespace, clock: Clock) -> Iterator[dict[str, Any]]:
    """A figure for each setting."""
    config = SYNTHETIC[options.model].config
    if options.kernel == "window_attention":
        yield from _attention(options, clock)
    elif options.kernel in rest.ARGUMENTS:
        splits = options.splits or [rest.splits_in_use(options.kernel, config)]
        kv_caches = options.kv if options.kernel in rest.CACHED else options.kv[:1]
        rules = options.rules if options.kernel in rest.RULED else options.rules[:1]
        tiles = rest.tiles_of(options.kernel, options.warps or [], options.outputs or [])
        for sizes in itertools.product(options.rows, splits, kv_caches, rules):
            yield from rest.sweep(options.kernel, rest.Problem(config, *sizes, tree=options.tree), tiles, clock)
    else:
        shapes = {layer: shape for layer, shape in linear_shapes(config).items() if layer in options.layers}
        for problem in matmul.problems(shapes, options.rows):
            scheme = options.kernel.removesuffix("_matmul")
            used = problem.tile_in_use(scheme)
            outputs_and_warps = itertools.product(options.outputs or [used.outputs], options.warps or [used.warps])
            stages, splits = options.stages or [used.stages], options.splits or [used.splits]
            tiles = matmul.tiles_of(scheme, problem, list(outputs_and_warps), stages, splits)
            yield from matmul.sweep(scheme, problem, tiles, clock)
            if options.others:
                yield from matmul.others(problem, clock)


def _attention(options: argparse.Namespace, clock: Clock) -> Iterator[dict[str, Any]]:
    config = SYNTHETIC[options.model].config
    length = PROMPT_TOKENS + canvas_reaching(max(options.context), max(options.windows)).last + 1
    for kv_cache, width, context in itertools.product(options.kv, options.windows, options.context):
        problem = attention.Problem(config, kv_cache, width, context, length, options.tree)
        used = problem.tile_in_use
        slots, warps = options.slots or [used.slots], options.warps or [used.warps]
        yield from attention.sweep(
            problem, attention.tiles_of(problem, slots, warps, options.chunks or [used.chunk]), clock
        )


@torch.inference_mode()
def main(arguments: list[str] | None = None) -> int:
    """Prints a JSON line for each setting; returns 2 if the kernels cannot run."""
    options = make_parser().parse_args(arguments)
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    device = torch.device("cpu" if interpreted else "cuda")
    if interpreted:
        reason = "" if importlib.util.find_spec("triton") else "triton is not installed"
    else:
        reason = unsupported_reason(device) if torch.cuda.is_available() else "there is no CUDA device"
    if reason:
        print(f"benchmarks.kernels: {reason}; TRITON_INTERPRET=1 runs them on a CPU, slowly", file=sys.stderr)
        return 2
    if interpreted:
        prepare_interpreter()
    for figure in figures(options, Clock(device, copy_bandwidth(device))):
        print(json.dumps(figure), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
