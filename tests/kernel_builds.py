"""Builds kernels for NVIDIA GPUs to machine code, without a GPU. As a program: what fails.

python -m tests.kernel_builds CAPABILITY,... [CASE ...]      (all cases where none is named)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from benchmarks.gpu_code import build_instead_of_running
from lumina_core.kernels.select import load

from .kernel_cases import LARGE, SMALL, Case


def main(capabilities: Sequence[int], names: Sequence[str]) -> None:
    cases = {name: case for name, case in {**SMALL, **LARGE}.items() if isinstance(case, Case)}
    failed, reports = {}, {}
    for capability in capabilities:
        built = build_instead_of_running(capability)
        for name in names or cases:
            case = cases[name]
            try:
                load(case.kernel)(*case.sample("cpu", **case.sizes))
            except Exception as error:  # whatever the compiler raises
                failed[f"{name}, {capability}"] = f"{type(error).__name__}: {error}"
        assert all("cubin" in one.asm for one in built)
        reports[capability] = {"built": len(built), "shared": max(one.metadata.shared for one in built)}
    print(json.dumps({"failed": failed, "capabilities": reports}))


if __name__ == "__main__":
    main([int(each) for each in sys.argv[1].split(",")], sys.argv[2:])
