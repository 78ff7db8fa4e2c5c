"""Hardware counters, read by NVIDIA's ncu, of the two kernels that take most of a step."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from collections.abc import Iterable

from .context import Context, Skipped, emit

METRICS = {
    "gpu__time_duration.sum": "duration",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "DRAM %",
    "lts__throughput.avg.pct_of_peak_sustained_elapsed": "L2 %",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "SM %",
    "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active": "tensor %",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "warps %",
    "smsp__issue_active.avg.pct_of_peak_sustained_active": "issue %",
    "launch__registers_per_thread": "registers",
}
# A kernel's name in Triton, and the micro-benchmark that runs it.
RUNS = {
    "_int4_matmul": ("int4_matmul", "--layers", "gate_up_proj", "--rows", "64"),
    "_attend_chunk": ("window_attention", "--kv", "int8", "--windows", "32", "--context", "5120"),
}
LAUNCHES_SKIPPED, LAUNCHES = 4, 2


def run(context: Context) -> None:
    ncu = shutil.which("ncu")
    if ncu is None:
        raise Skipped("ncu is not installed")
    if context.dry_run:
        raise Skipped("ncu counts on a GPU only")
    failed: list[str] = []
    for kernel, benchmark in RUNS.items():
        command = [ncu, "--clock-control", "none", "--csv", "--print-units", "base", "--metrics", ",".join(METRICS)]
        command += ["--kernel-name", f"regex:{kernel}", "--launch-skip", str(LAUNCHES_SKIPPED)]
        command += ["--launch-count", str(LAUNCHES), sys.executable, "-m", "benchmarks.kernels", *benchmark]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=False, timeout=max(1.0, context.left / 2)
        )
        rows = list(read_counters(done.stdout.splitlines()))
        for row in rows:
            emit(benchmark=" ".join(benchmark), **row)
        if not rows:
            message = next((line for line in done.stdout.splitlines() if line.startswith("==ERROR==")), "no counters")
            failed.append(f"{kernel}: ncu ended with exit code {done.returncode}: {message}")
            emit(benchmark=" ".join(benchmark), error=failed[-1])
    if failed:
        raise RuntimeError("; ".join(failed))


def read_counters(lines: Iterable[str]) -> Iterable[dict[str, object]]:
    """One figure for each launch, from ncu's output: among other lines, a CSV row for each launch and metric."""
    table = [line for line in lines if line.startswith('"')]
    launches: dict[str, dict[str, object]] = {}
    for row in csv.DictReader(table):
        metric, value = row.get("Metric Name", ""), (row.get("Metric Value") or "").replace(",", "")
        if metric in METRICS:
            launch = launches.setdefault(row["ID"], {"kernel": row["Kernel Name"]})
            launch[METRICS[metric]] = float(value) if value.replace(".", "", 1).isdigit() else value
    return launches.values()
