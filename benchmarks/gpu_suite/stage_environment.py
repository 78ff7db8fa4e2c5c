"""The device and its rates: memory, L2, bfloat16 matmul, launches."""

from __future__ import annotations

import shutil
import subprocess
import time

import torch

from lumina_core.timing.steps import copy_bandwidth, timed

from ..kernels.clock import Clock
from .context import Context, emit

SIDE, TOY_SIDE = 8192, 256
L2_BYTES, LAUNCHES = 2**24, 2000


@torch.inference_mode()
def run(context: Context) -> None:
    device = context.device
    emit(**_device(device))
    bandwidth = copy_bandwidth(device)
    clock = Clock(device, bandwidth)
    emit(rate="copy", bytes_per_second=bandwidth)
    small = torch.ones(L2_BYTES // 8, device=device)
    target = torch.empty_like(small)
    seconds = clock.seconds([lambda: target.copy_(small)] * 8)
    emit(rate="copy within the L2", bytes_per_second=2 * small.nbytes / seconds)
    side = TOY_SIDE if context.dry_run else SIDE
    left, right = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    seconds = clock.seconds([lambda: left @ right] * 4)
    emit(rate="bf16 matmul", side=side, flops=2 * side**3 / seconds)
    emit(rate="launch", us=1e6 * _launch_seconds(device))


def _device(device: torch.device) -> dict[str, object]:
    if device.type != "cuda":
        return {"cores": torch.get_num_threads()}
    found = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    return {
        "multiprocessors": found.multi_processor_count,
        "l2_bytes": found.L2_cache_size,
        "free_bytes": free,
        "total_bytes": total,
        "allocator": torch.cuda.get_allocator_backend(),
        "cuda": torch.version.cuda,
        "driver": _driver(),
    }


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "unknown"
    command = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,clocks.max.mem,power.limit", "--format=csv"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except subprocess.TimeoutExpired:
        return "timed out"
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "unknown"


def _launch_seconds(device: torch.device) -> float:
    """Time of the host to start a small operation, without the device's own time."""
    one = torch.zeros(1, device=device)
    timed(lambda: one.add_(1), device)
    start = time.perf_counter()
    for _ in range(LAUNCHES):
        one.add_(1)
    return (time.perf_counter() - start) / LAUNCHES
