"""Whether CUDA graphs work on this machine, tried once in a process of its own, since a failed capture can end it."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import json
import logging
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..device import free_memory
from ..errors import InputError
from ..files.output_files import OutputFiles
from ..kernels.warm_up import PROBE, tell
from .capture_probe_process import CHILD, Verdict, one_line, run_child

logger = logging.getLogger(__name__)

CACHE_FOLDER = "comfyui-lumina-mgpt2"
MOST_BYTES = 2**16
# Variables that change how memory is allocated or graphs are captured.
VARIABLES = (
    *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING"),
    *("CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING"),
)


@dataclass(frozen=True)
class Machine:
    """What a verdict depends on. `probe` identifies the child's program, `environment` is the set ones of VARIABLES."""

    torch: str
    runtime: str
    driver: str
    gpu: str
    allocator: str
    environment: tuple[tuple[str, str], ...]
    probe: str


class _Repeat(Exception):
    """A verdict that holds for this call only, raised past the cache of `_verdict`."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict)
        self.verdict = verdict


def capture_failure(device: torch.device, allocates: bool = False) -> str:
    """Why CUDA graphs cannot be captured and replayed on a device, in one line; "" where they can.

    `allocates`: whether the captured steps allocate memory. The first call on a machine runs a child process, for some
    seconds and at most TIMEOUT; its verdict is kept in a file, and in this process. A probe that fails is a reason too.
    """
    if device.type != "cuda":
        return f"the device is {device.type}; CUDA graphs need a CUDA device"
    index = torch.cuda.current_device() if device.index is None else device.index
    try:
        verdict = _verdict(index, machine_of(index))
    except _Repeat as only_now:
        verdict = only_now.verdict
    return verdict.failure or (verdict.allocating_failure if allocates else "")


@functools.cache
def _verdict(index: int, machine: Machine) -> Verdict:
    path = cache_path(machine)
    if path and (kept := read_verdict(path, machine)):
        return kept
    where = f"{machine.gpu}, allocator {machine.allocator}, PyTorch {machine.torch}"
    tell(PROBE)
    logger.info("checking once whether CUDA graphs work here (%s) …", where)
    # The child needs memory of the device; this process may hold some unused.
    free_memory()
    outcome = run_child([str(index), machine.allocator, machine.torch])
    logger.info("%s", _summary(outcome.verdict))
    if outcome.repeat:
        raise _Repeat(outcome.verdict)
    if path and outcome.lasting:
        write_verdict(path, machine, outcome.verdict)
    return outcome.verdict


def _summary(verdict: Verdict) -> str:
    if verdict.failure:
        return f"CUDA graphs do not work here: {verdict.failure}"
    but = f", but not for steps that allocate memory: {verdict.allocating_failure}"
    return f"CUDA graphs work here{but if verdict.allocating_failure else ''}"


def machine_of(index: int) -> Machine:
    gpu = torch.cuda.get_device_properties(index)
    return Machine(
        torch=torch.__version__,
        runtime=f"CUDA {torch.version.cuda}, HIP {torch.version.hip}",
        driver=driver_version(),
        gpu=f"{gpu.name} ({gpu.major}.{gpu.minor})",
        allocator=torch.cuda.get_allocator_backend(),
        environment=tuple((name, os.environ[name]) for name in VARIABLES if name in os.environ),
        probe=hashlib.sha256(CHILD.read_bytes()).hexdigest()[:16],
    )


def driver_version() -> str:
    """The CUDA version that the driver has, and the driver's own version; what is not known is left out."""
    cuda = getattr(torch._C, "_cuda_getDriverVersion", lambda: "")()
    text = ctypes.create_string_buffer(96)
    with contextlib.suppress(OSError, AttributeError):  # no NVML
        nvml = ctypes.CDLL("nvml.dll" if os.name == "nt" else "libnvidia-ml.so.1")
        if nvml.nvmlInit_v2() == 0:
            nvml.nvmlSystemGetDriverVersion(text, len(text))
            nvml.nvmlShutdown()
    return f"{cuda} {text.value.decode(errors='replace')}".strip()


def cache_path(machine: Machine) -> Path | None:
    """The file for a machine's verdict in the user's cache folder, or None where there is no such folder."""
    name = hashlib.sha256(json.dumps(asdict(machine)).encode()).hexdigest()[:16]
    try:
        if os.name == "nt":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home folder
        return None
    return base / CACHE_FOLDER / f"cuda-graphs-{name}.json" if base.is_absolute() else None


def read_verdict(path: Path, machine: Machine) -> Verdict | None:
    """The verdict in a file, or None where there is none of this machine."""
    try:
        with path.open("rb") as file:
            values = json.loads(file.read(MOST_BYTES))
        verdict = Verdict(values["failure"], values["allocating_failure"])
        if values["machine"] == json.loads(json.dumps(asdict(machine))) and all(
            isinstance(reason, str) for reason in asdict(verdict).values()
        ):
            return Verdict(one_line(verdict.failure), one_line(verdict.allocating_failure))
        logger.debug("%s is of another machine", path)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        logger.debug("%s cannot be read: %s", path, error)
    return None


def write_verdict(path: Path, machine: Machine, verdict: Verdict) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with OutputFiles() as files:
            files.write_json({"machine": asdict(machine), **asdict(verdict)}, path)
    except (OSError, InputError) as error:
        logger.debug("the verdict on CUDA graphs is not kept: %s", error)
