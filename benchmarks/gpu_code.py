"""The kernels' machine code, without a GPU: python -m benchmarks.gpu_code [CAPABILITY]

Compiles the kernels to machine code (90 is an H100, 89 an RTX 4090, 80 an A100) and counts, for the loops that read
weights and the cache, the instructions of each value that is read and the barriers of an iteration. A GPU that starts
N instructions a second and reads B bytes a second cannot hide more than N/B instructions a byte behind the reading.
Beside a weight, a matmul reads its inputs, from the L2: bytes of x for each weight.
"""

from __future__ import annotations

import argparse
import itertools
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from lumina_core.decoding.settings import AUTO_TREE
from lumina_core.kernels.kv_tensor import INT4, KV_CACHES
from lumina_core.kernels.reference import GROUP_SIZE
from lumina_core.kernels.samples import attention_sample
from lumina_core.kernels.select import load
from lumina_core.kernels.tiles import attention_tile, matmul_tile

from .kernels.arguments import matmul_arguments
from .kernels.matmul import WEIGHT_BITS

TOOLS = Path(triton.backends.nvidia.__file__).parent / "bin"
LANES = 32
COLUMNS = "kernel", "instructions a value", "bytes of x a value", "barriers", "registers", "spilled", "shared memory"
HIDDEN, MLP, HEADS, HEAD_DIM = 4096, 11_008, 32, 128


class NoGPU:
    """The part of Triton's driver that compiling needs."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, LANES)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def build_instead_of_running(capability: int) -> list[Any]:
    """Makes every launch only compile its kernel, for a capability, and append it to the list."""
    built: list[Any] = []

    def build(kernel: Any, grid: Any) -> Any:
        return lambda *arguments, **options: built.append(kernel.run(*arguments, grid=grid, warmup=True, **options))

    driver.set_active(NoGPU(capability))
    JITFunction.__getitem__ = build
    torch.Tensor.is_cuda = property(lambda tensor: True)
    return built


@dataclass(frozen=True)
class Case:
    """A kernel's call, how many values a program's loop reads in one iteration, and bytes of x that it reads beside."""

    kernel: str
    arguments: Callable[[], tuple[Any, ...]]
    values: int
    x_bytes: int | None = None


def matmul(scheme: str, rows: int) -> Case:
    shape = HIDDEN, 2 * MLP
    tile = matmul_tile(rows, *shape, torch.bfloat16, WEIGHT_BITS[scheme])
    arguments = partial(matmul_arguments, scheme, shape, rows, "cpu")
    x_bytes = tile.rows * GROUP_SIZE * torch.bfloat16.itemsize
    return Case(f"{scheme}_matmul", arguments, tile.outputs * GROUP_SIZE, x_bytes)


def attention(kv_cache: str, width: int, capability: int, tree: int = 0) -> Case:
    sizes = {"heads": (HEADS, HEADS), "head_dim": HEAD_DIM, "width": width, "tree": tree, "length": 128}
    arguments = partial(attention_sample, "cpu", torch.bfloat16, kv_cache=kv_cache, filled=(width, 90), **sizes)
    tile = attention_tile(width + tree, torch.bfloat16, capability, kv_cache == INT4)
    # A window of more queries than a tile's has its cache read as often as it has tiles.
    return Case("window_attention", arguments, tile.slots * 2 * HEAD_DIM // -(-(width + tree) // tile.queries))


def cases(capability: int) -> dict[str, Case]:
    """What is compiled and counted, by name."""
    matmuls, caches = itertools.product(WEIGHT_BITS, (2, 32, 64, 128)), itertools.product(KV_CACHES, (1, 32, 64))
    return {
        **{f"{scheme} matmul, {rows} rows": matmul(scheme, rows) for scheme, rows in matmuls},
        **{f"attention, {kv} cache, W {width}": attention(kv, width, capability) for kv, width in caches},
        **{
            f"attention, {kv} cache, W {width}, tree of {AUTO_TREE}": attention(kv, width, capability, AUTO_TREE)
            for kv, width in itertools.product(KV_CACHES, (16, 32))
        },
    }


def loop_of(code: str) -> list[str]:
    """The instructions of the longest loop in disassembled code that stores nothing in global memory."""
    lines, labels, longest = code.splitlines(), dict[str, int](), list[str]()
    for at, line in enumerate(lines):
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = at
        elif (jump := re.search(r"BRA.*`\((\.L_x_\d+)\)", line)) and jump[1] in labels:
            matches = (
                re.search(r"\*/\s+(?:@!?U?P\d+ )?([A-Z0-9_.]+)", each) for each in lines[labels[jump[1]] : at + 1]
            )
            found = [each[1] for each in matches if each]
            # What jumps back from behind the end of the kernel is no loop.
            if not any(each.startswith("STG") for each in found):
                longest = max(longest, found, key=len)
    return longest


def output_of(tool: str, option: str, cubin: bytes) -> str:
    """The output of one of NVIDIA's tools, which come with Triton, for a kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([TOOLS / tool, option, file.name], capture_output=True, text=True, check=True).stdout


def main() -> int:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capability", metavar="CAPABILITY", type=int, nargs="?", default=90)
    parser.add_argument("--only", metavar="TEXT", default="", help="cases whose name has this text")
    options = parser.parse_args()
    capability = options.capability
    built = build_instead_of_running(capability)
    print(f"Compute capability {capability // 10}.{capability % 10}, Triton {triton.__version__}\n")
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    for name, case in cases(capability).items():
        if options.only not in name:
            continue
        built.clear()
        load(case.kernel)(*case.arguments())
        cubin, made = built[0].asm["cubin"], built[0].metadata
        loop = loop_of(output_of("nvdisasm", "-c", cubin))
        count, barriers = (
            len(loop) * LANES * made.num_warps / case.values,
            sum(each.startswith("BAR.") for each in loop),
        )
        registers, spilled = re.findall(r"REG:(\d+) STACK:(\d+)", output_of("cuobjdump", "-res-usage", cubin))[0]
        x_bytes = "" if case.x_bytes is None else f"{case.x_bytes / case.values:.2f}"
        row = name, f"{count:.2f}", x_bytes, barriers, registers, f"{spilled} bytes", f"{made.shared / 1024:.0f} KB"
        print(f"| {' | '.join(map(str, row))} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
