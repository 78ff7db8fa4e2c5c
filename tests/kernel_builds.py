"""Builds every kernel for NVIDIA GPUs to machine code, without a GPU. As a program: what fails."""

from __future__ import annotations

import json
import sys

from benchmarks.gpu_code import build_instead_of_running
from lumina_core.kernels.select import load

from .kernel_cases import LARGE, SMALL, Case


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
