"""Compiles every kernel in parallel, before another stage waits for one; reports each that fails with its error."""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import torch

from ..kernels.clock import first_line
from .builds import Build, all_builds
from .context import Context, emit, require_triton
from .processes import end_with_parent

# That of an H100, for a dry run without a GPU.
DRY_CAPABILITY = 90
MOST_PROCESSES = 32
builds: list[Build] = []


def run(context: Context) -> None:
    require_triton()
    count, start = len(all_builds(context.dry_run)), time.monotonic()
    workers = min(2 if context.dry_run else MOST_PROCESSES, os.cpu_count() or 1, count)
    built = 0
    # Spawned, not forked: torch has threads.
    with ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("spawn"),
        initializer=_prepare,
        initargs=(context.dry_run, _capability(context)),
    ) as pool:
        for done in as_completed([pool.submit(_build, index) for index in range(count)]):
            found = done.result()  # raises BrokenProcessPool if the compiler ended a process
            built += not found.get("error")
            if found.get("error") or context.dry_run:
                emit(**found)
            if built % 50 == 0:
                emit(built=built, of=count, after=round(time.monotonic() - start, 1))
    emit(built=built, of=count, after=round(time.monotonic() - start, 1), workers=workers)
    if built < count:
        raise RuntimeError(f"{count - built} of {count} kernels do not build; the figures name them")


def _capability(context: Context) -> int:
    major, minor = (divmod(DRY_CAPABILITY, 10)) if context.dry_run else torch.cuda.get_device_capability()
    return 10 * major + minor


def _prepare(dry_run: bool, capability: int) -> None:
    """Prepares a worker: launches only compile, for the device, into Triton's cache, which all stages use."""
    from ..gpu_code import build_instead_of_running

    end_with_parent()
    torch.set_num_threads(1)
    build_instead_of_running(capability)
    builds[:] = all_builds(dry_run)


def _build(index: int) -> dict[str, Any]:
    from lumina_core.kernels.select import load

    build, start = builds[index], time.perf_counter()
    figure = {"kernel": build.kernel, "variant": build.variant}
    try:
        load(build.kernel)(*build.arguments(), **build.options)
    except Exception as error:  # any error of the compiler
        return {**figure, "error": first_line(error)}
    return {**figure, "seconds": round(time.perf_counter() - start, 2)}
