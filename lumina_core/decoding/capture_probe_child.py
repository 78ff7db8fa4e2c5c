"""Captures, replays and frees CUDA graphs in a process of its own: capture_probe_child.py DEVICE_INDEX ALLOCATOR TORCH

Run by path, so it imports only torch and the standard library. Each result is printed as a JSON line when it is known,
since what follows may end the process:
  {"begun": true}                      the device works, and the captures begin
  {"works": true}                      steps that write to buffers are captured, replayed and freed
  {"allocating": true}                 steps that allocate memory too
or false, with "reason", and with "out_of_memory": true where memory is what was missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import functools
import json
import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ROWS, SIZE, LENGTH = (16, 4), 256, 32
REPLAYS, FREED_BYTES = 5, 2**25
# After these the process ends by itself, in case that nobody waits for it any more.
MOST_SECONDS = 150
# SetErrorMode of Windows: no dialog for a missing library, a crash or a missing file.
NO_DIALOGS = 0x0001 | 0x0002 | 0x8000
# The first NVIDIA GPUs that compute in bf16 themselves.
BF16_CAPABILITY = 8
OUT_OF_MEMORY = re.compile(r"out of memory|not enough memory|can't allocate memory|ALLOC_FAILED", re.IGNORECASE)


class Failed(Exception):
    """Why the device or its graphs do not work."""


class BufferedStep:
    """A step as a run has it: a matmul, operations on its elements, writes by index. It allocates nothing."""

    def __init__(self, torch: Any, device: torch.device, dtype: torch.dtype, rows: int) -> None:
        self.torch = torch
        drawn = torch.randn(rows + SIZE, SIZE, generator=torch.Generator().manual_seed(rows))
        self.first, self.weight = drawn.to(device, dtype).split((rows, SIZE))
        self.weight = self.weight / 16
        self.hidden, self.product = self.first.clone(), torch.empty_like(self.first)
        self.history = torch.zeros(rows, LENGTH, dtype=dtype, device=device)
        self.pos = torch.zeros(rows, 1, dtype=torch.int64, device=device)

    @property
    def state(self) -> tuple[Tensor, ...]:
        return self.hidden, self.history, self.pos

    def reset(self) -> None:
        self.hidden.copy_(self.first)
        self.history.zero_()
        self.pos.zero_()

    def __call__(self) -> None:
        self.torch.matmul(self.hidden, self.weight, out=self.product)
        self.product.tanh_().add_(self.first).mul_(0.5)
        self.hidden.copy_(self.product)
        self.history.scatter_(1, self.pos, self.hidden[:, :1])
        self.pos.add_(1)


class AllocatingStep(BufferedStep):
    """The same with results that are allocated, some of which outlive the allocation of others."""

    def __call__(self) -> None:
        hidden = ((self.hidden @ self.weight).float().softmax(-1) * 3).to(self.hidden.dtype) + self.first
        normed = hidden / hidden.float().square().mean(-1, keepdim=True).sqrt().to(hidden.dtype)
        self.hidden.copy_(normed)
        index = self.pos.clone()
        self.history.scatter_(1, index, normed[:, :1])
        self.pos.copy_(index + 1)


def main(arguments: list[str]) -> int:
    index, allocator, version = int(arguments[0]), arguments[1], arguments[2]
    prepare_process()
    try:
        import torch

        device = open_device(torch, index, allocator, version)
        dtype = torch.bfloat16 if has_bf16(torch, device) else torch.float16
    except Exception as error:
        report("works", error)
        return 1
    emit(begun=True)
    for name, kind in (("works", BufferedStep), ("allocating", AllocatingStep)):
        try:
            with torch.inference_mode():
                check_captures(torch, device, [kind(torch, device, dtype, rows) for rows in ROWS])
        except Exception as error:
            report(name, error)
            return 1
        emit(**{name: True})
    return 0


def prepare_process() -> None:
    """Lets no file beside this one hide a library, no crash leave a dialog or a core file, and no hang last."""
    faulthandler.dump_traceback_later(MOST_SECONDS, exit=True)
    own = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != own]
    if sys.platform == "win32":
        ctypes.windll.kernel32.SetErrorMode(NO_DIALOGS)
        return
    import resource

    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def open_device(torch: Any, index: int, allocator: str, version: str) -> torch.device:
    """The CUDA device. Raises Failed where torch or its allocator are not those of the process that asks."""
    if torch.__version__ != version:
        raise Failed(f"a new process finds PyTorch {torch.__version__}, not {version}")
    if not torch.cuda.is_available():
        raise Failed("PyTorch finds no CUDA device in a new process")
    torch.cuda.set_device(index)
    if (found := torch.cuda.get_allocator_backend()) != allocator:
        raise Failed(f"a new process has the allocator {found}, not {allocator}")
    return torch.device("cuda", index)


def has_bf16(torch: Any, device: torch.device) -> bool:
    """As `has_bf16` in `device.py`, which no file here can import: emulation does not count."""
    if torch.version.hip:
        return torch.cuda.is_bf16_supported()
    return torch.cuda.get_device_capability(device)[0] >= BF16_CAPABILITY


def check_captures(torch: Any, device: torch.device, steps: list[BufferedStep]) -> None:
    """Captures steps in one memory pool, compares their replays with themselves and frees all.

    Raises Failed if a replay computes other values.
    """
    run, pool = functools.partial(on_stream, torch, torch.cuda.Stream(device)), torch.cuda.graph_pool_handle()
    expected, graphs = [], []
    for step in steps:
        # The first runs warm the libraries up on this stream.
        expected += run(functools.partial(states_after, step, step))
        graphs.append(torch.cuda.CUDAGraph())
        run(functools.partial(capture, graphs[-1], pool, step))
    found = []
    # In turn, as the widths of a run alternate.
    for step, graph in [*zip(steps, graphs, strict=True)] * 2:
        found += states_after(step, graph.replay)
    torch.cuda.synchronize()
    same = all(torch.equal(*pair) for pair in zip(expected * 2, found, strict=True))
    for graph in graphs:
        graph.reset()
    graphs.clear()
    found.clear()
    allocate_and_free(torch, device)
    if not same:
        raise Failed("a replayed graph computes other values than the step itself")


def states_after(step: BufferedStep, run: Callable[[], object]) -> list[Tensor]:
    """What a step changes, after some runs from its first state."""
    step.reset()
    for _ in range(REPLAYS):
        run()
    return [one.clone() for one in step.state]


def capture(graph: Any, pool: Any, step: BufferedStep) -> None:
    graph.capture_begin(pool=pool, capture_error_mode="thread_local")
    try:
        step()
    except BaseException:
        with contextlib.suppress(RuntimeError):  # it must not hide the error that led here
            graph.capture_end()
        raise
    graph.capture_end()


def on_stream(torch: Any, stream: Any, run: Callable[[], Any]) -> Any:
    """The result of `run()` on a stream, after earlier work and before later work of the current one."""
    outside = torch.cuda.current_stream()
    stream.wait_stream(outside)
    with torch.cuda.stream(stream):
        result = run()
    outside.wait_stream(stream)
    return result


def allocate_and_free(torch: Any, device: torch.device) -> None:
    """Frees memory and allocates it again: an allocator that a capture has broken ends the process here."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    for _ in range(3):
        blocks = [torch.empty(FREED_BYTES >> k, dtype=torch.uint8, device=device).fill_(1) for k in range(4)]
        torch.cuda.synchronize()
        del blocks
        torch.cuda.empty_cache()
    torch.cuda.synchronize()


def report(name: str, error: Exception) -> None:
    reason = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {str(error).strip()}"
    lack = bool(OUT_OF_MEMORY.search(reason)) or isinstance(error, MemoryError)
    emit(**{name: False}, reason=reason.splitlines()[0], **({"out_of_memory": True} if lack else {}))


def emit(**values: Any) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
