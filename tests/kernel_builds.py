"""Builds every kernel for NVIDIA GPUs, down to the machine's code, where there is none. As a program: what fails."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from lumina_core.kernels.chooser import load

from .kernel_cases import LARGE, SMALL, Case

WARP = 32


class NoGPU:
    """As much of Triton's driver as building asks for."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, WARP)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def build_instead_of_running(capability: int) -> list[Any]:
    """From now on a launch only builds, for a capability; what was built is in the list."""
    built: list[Any] = []

    def build(kernel: Any, grid: Any) -> Any:
        return lambda *arguments, **options: built.append(kernel.run(*arguments, grid=grid, warmup=True, **options))

    driver.set_active(NoGPU(capability))
    JITFunction.__getitem__ = build
    torch.Tensor.is_cuda = property(lambda tensor: True)
    return built


def main(capability: int) -> None:
    built = build_instead_of_running(capability)
    failed = {}
    for name, case in {**SMALL, **LARGE}.items():
        if not isinstance(case, Case):
            continue
        try:
            load(case.kernel)(*case.sample("cpu", **case.sizes))
        except Exception as error:  # whatever the compiler raises
            failed[name] = f"{type(error).__name__}: {error}"
    assert all("cubin" in one.asm for one in built)
    report = {"built": len(built), "failed": failed, "shared": max(one.metadata.shared for one in built)}
    print(json.dumps(report))


if __name__ == "__main__":
    main(int(sys.argv[1]))
