"""The probe of CUDA graphs: whatever its child does is a reason, and a machine is tried once."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lumina_core.decoding import capture_probe, capture_probe_process
from lumina_core.decoding.capture_probe import Machine, cache_path, capture_failure
from lumina_core.decoding.capture_probe_process import CHILD, how_ended, outcome_of
from lumina_core.device import has_bf16

GPU = torch.device("cuda", 0)
MACHINE = Machine("2.13.0", "CUDA 13.0", "13000 580.1", "Some GPU (9.0)", "native", (), "0123")
BEGUN, WORKS, ALLOCATING = (f"print('{{\"{name}\": true}}', flush=True)\n" for name in ("begun", "works", "allocating"))
SEGFAULT = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)\n"
posix = pytest.mark.skipif(os.name != "posix", reason="sends signals")


class Probe:
    """Runs scripts in place of the child, on a machine that has no verdict yet."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch, self.machine = folder, monkeypatch, MACHINE
        self.cache, self.script, self.runs = folder / "cache", folder / "child.py", folder / "runs"
        monkeypatch.setenv("XDG_CACHE_HOME" if os.name != "nt" else "LOCALAPPDATA", str(self.cache))
        monkeypatch.setenv("HOME", str(folder))
        monkeypatch.setattr(capture_probe_process, "CHILD", self.script)
        monkeypatch.setattr(capture_probe, "machine_of", lambda _: self.machine)
        self.new_process()

    def new_process(self) -> None:
        """Forgets what this process keeps in memory."""
        capture_probe._verdict.cache_clear()

    def ask(self, script: str, allocates: bool = False) -> str:
        counts = f"open({str(self.runs)!r}, 'a').write('x')\n"
        self.script.write_text(counts + script, encoding="utf-8")
        return capture_failure(GPU, allocates)

    @property
    def count(self) -> int:
        """Children started so far."""
        return len(self.runs.read_text()) if self.runs.exists() else 0

    @property
    def files(self) -> list[Path]:
        return [path for path in self.cache.rglob("*") if path.is_file()]


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Probe]:
    yield Probe(tmp_path, monkeypatch)
    capture_probe._verdict.cache_clear()


def test_a_device_without_cuda_starts_no_child(probe: Probe) -> None:
    probe.script.write_text(f"open({str(probe.runs)!r}, 'a').write('x')", encoding="utf-8")
    assert "cpu" in capture_failure(torch.device("cpu")) and probe.count == 0


def test_graphs_that_work_are_no_failure_and_are_tried_once(probe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert probe.ask(BEGUN + WORKS + ALLOCATING) == ""
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.INFO] == [
        "checking once whether CUDA graphs work here (Some GPU (9.0), allocator native, PyTorch 2.13.0) …",
        "CUDA graphs work here",
    ]
    assert probe.ask("raise SystemExit(1)", allocates=True) == "" and probe.count == 1
    probe.new_process()
    assert probe.ask("raise SystemExit(1)", allocates=True) == "" and probe.count == 1
    assert len(caplog.records) == 2


def test_the_child_is_told_what_it_must_find(probe: Probe) -> None:
    told = probe.folder / "told"
    probe.ask(f"import sys; open({str(told)!r}, 'w').write(' '.join(sys.argv[1:]))\n" + BEGUN + WORKS + ALLOCATING)
    assert told.read_text() == "0 native 2.13.0"


@posix
def test_a_crash_is_a_reason_that_names_signal_and_error_and_is_kept(probe: Probe) -> None:
    says = "import sys; print('x.cpp: CUDA error: broken\\nCompile with FLAG for more', file=sys.stderr, flush=True)\n"
    reason = probe.ask(BEGUN + says + SEGFAULT)
    assert "SIGSEGV" in reason and reason.endswith("x.cpp: CUDA error: broken")
    probe.new_process()
    assert probe.ask(BEGUN + WORKS + ALLOCATING) == reason and probe.count == 1


@posix
def test_a_crash_of_steps_that_allocate_leaves_the_others(probe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert probe.ask(BEGUN + WORKS + SEGFAULT) == ""
    assert "SIGSEGV" in capture_failure(GPU, allocates=True)
    assert "not for steps that allocate memory" in caplog.text
    probe.new_process()
    assert capture_failure(GPU) == "" and "SIGSEGV" in capture_failure(GPU, allocates=True) and probe.count == 1


@posix
def test_a_crash_at_the_end_counts_for_the_steps_that_allocate(probe: Probe) -> None:
    assert probe.ask(BEGUN + WORKS + ALLOCATING + SEGFAULT) == "" and "SIGSEGV" in capture_failure(GPU, True)


def test_reasons_of_the_child_are_passed_on(probe: Probe) -> None:
    assert probe.ask(BEGUN + 'print(\'{"works": false, "reason": "a\\\\nb"}\')\nraise SystemExit(1)') == "a b"
    probe.new_process()
    assert capture_failure(GPU, allocates=True) == "a b" and probe.count == 1


NOT_KEPT = {
    "hang": (BEGUN + "import time; time.sleep(600)", "did not end within 1 s"),
    "nothing": ("", "printed no result"),
    "garbage": ("print('garbage\\n[1]\\n{\"works\": \\n\\0')", "printed no result"),
    "before": ('print(\'{"works": false, "reason": "no device"}\')', "no device"),
    "torch": ("import no_such_torch", "exit code 1: ModuleNotFoundError: No module named 'no_such_torch'"),
    "killed": (BEGUN + "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
}


@posix
@pytest.mark.parametrize("case", NOT_KEPT)
def test_what_says_nothing_about_captures_is_not_kept_on_disk(probe: Probe, case: str) -> None:
    script, expected = NOT_KEPT[case]
    if case == "hang":
        probe.patch.setattr(capture_probe_process, "TIMEOUT", 1.0)
    assert expected in probe.ask(script)
    assert expected in probe.ask(BEGUN + WORKS + ALLOCATING) and probe.count == 1 and probe.files == []
    probe.new_process()
    probe.patch.setattr(capture_probe_process, "TIMEOUT", 30.0)
    assert probe.ask(BEGUN + WORKS + ALLOCATING) == "" and len(probe.files) == 1


def test_a_lack_of_memory_is_tried_again_by_the_next_run(probe: Probe) -> None:
    lack = 'print(\'{"works": false, "reason": "CUDA out of memory", "out_of_memory": true}\')'
    assert "out of memory" in probe.ask(BEGUN + lack)
    assert probe.ask(BEGUN + WORKS + ALLOCATING) == "" and probe.count == 2


@posix
def test_a_child_that_hangs_is_killed_with_its_children(probe: Probe) -> None:
    probe.patch.setattr(capture_probe_process, "TIMEOUT", 2.0)
    pids = probe.folder / "pids"
    sleeper = "[sys.executable, '-c', 'import time; time.sleep(600)']"
    script = f"import os, subprocess, sys, time\nother = subprocess.Popen({sleeper})\n"
    script += f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{other.pid}}')\ntime.sleep(600)\n"
    start = time.monotonic()
    assert "did not end" in probe.ask(BEGUN + WORKS + script, allocates=True) and time.monotonic() - start < 20
    assert capture_failure(GPU) == ""  # printed before
    for pid in map(int, pids.read_text().split()):
        assert ended(pid)


def ended(pid: int) -> bool:
    """Whether a process has ended, or ends within seconds; a zombie has."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    "change",
    [
        {"torch": "2.14.0"},
        {"driver": "13010 590.1"},
        {"gpu": "Some GPU (10.0)"},
        {"allocator": "cudaMallocAsync"},
        {"environment": (("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"),)},
        {"probe": "4567"},
    ],
)
def test_another_machine_is_tried_itself(probe: Probe, change: dict[str, Any]) -> None:
    probe.ask(BEGUN + WORKS + ALLOCATING)
    probe.machine = replace(MACHINE, **change)
    probe.new_process()
    assert probe.ask(BEGUN + "raise SystemExit(3)") != "" and probe.count == 2
    probe.machine = MACHINE
    assert probe.ask("raise SystemExit(3)") == "" and probe.count == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"[" * 50_000,
        b'{"machine": {}, "failure": "", "allocating_failure": ""}',
        json.dumps({"machine": MACHINE.__dict__, "failure": False, "allocating_failure": None}).encode(),
    ],
)
def test_a_file_that_cannot_be_used_is_replaced(probe: Probe, content: bytes) -> None:
    path = cache_path(MACHINE)
    assert path and path.is_relative_to(probe.cache)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert "exit code 3" in probe.ask(BEGUN + "raise SystemExit(3)") and probe.count == 1
    probe.new_process()
    assert "exit code 3" in probe.ask(BEGUN + WORKS + ALLOCATING) and probe.count == 1


@pytest.mark.parametrize("obstacle", ["file", "folder"])
def test_a_verdict_that_cannot_be_kept_is_used(probe: Probe, obstacle: str) -> None:
    path = cache_path(MACHINE)
    assert path
    if obstacle == "file":  # where the folder should be
        probe.cache.write_text("")
    else:  # where the file should be
        path.mkdir(parents=True)
    assert probe.ask(BEGUN + WORKS + ALLOCATING) == "" and probe.ask("") == "" and probe.count == 1
    probe.new_process()
    assert probe.ask(BEGUN + WORKS + ALLOCATING) == "" and probe.count == 2
    assert probe.files == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_costs_the_file_only(probe: Probe) -> None:
    probe.cache.mkdir(mode=0o500)
    assert probe.ask(BEGUN + WORKS + ALLOCATING) == "" and probe.files == []


@pytest.mark.skipif(sys.platform != "linux", reason="the folder of Linux")
def test_a_user_without_a_cache_folder_has_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = cache_path(MACHINE)
    assert path and path.is_relative_to(tmp_path / ".cache")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_path(MACHINE) is None

    def no_home() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert cache_path(MACHINE) is None


@pytest.mark.parametrize("program", ["", "/opt/ComfyUI/ComfyUI.exe", "/usr/bin/blender"])
def test_another_program_than_python_is_not_started(probe: Probe, program: str) -> None:
    probe.patch.setattr(sys, "executable", program)
    reason = probe.ask(BEGUN + WORKS + ALLOCATING)
    assert "not a Python" in reason and (Path(program).name or "unknown") in reason
    assert probe.count == 0 and probe.files == []


def test_a_frozen_program_is_not_started(probe: Probe) -> None:
    probe.patch.setattr(sys, "frozen", True, raising=False)
    assert "not a Python" in probe.ask(BEGUN + WORKS + ALLOCATING) and probe.count == 0


def test_a_child_that_cannot_be_started_is_a_reason(probe: Probe) -> None:
    probe.patch.setattr(sys, "executable", str(probe.folder / "python3-removed"))
    assert "cannot be started" in probe.ask(BEGUN + WORKS + ALLOCATING) and probe.files == []


def test_nothing_of_the_child_reaches_the_terminal(probe: Probe, capfd: pytest.CaptureFixture[str]) -> None:
    probe.ask("import os; os.write(1, b'out\\n'); os.write(2, b'err\\n')\n" + BEGUN + WORKS + ALLOCATING)
    assert capfd.readouterr() == ("", "")


def test_two_processes_at_once_both_get_a_verdict(probe: Probe) -> None:
    script = BEGUN + "import time; time.sleep(0.5)\n" + WORKS + ALLOCATING
    probe.script.write_text(script, encoding="utf-8")
    code = (
        "import torch\n"
        "from pathlib import Path\n"
        "from lumina_core.decoding import capture_probe, capture_probe_process\n"
        f"capture_probe_process.CHILD = Path({str(probe.script)!r})\n"
        f"capture_probe.machine_of = lambda _: capture_probe.{MACHINE!r}\n"
        "print(repr(capture_probe.capture_failure(torch.device('cuda', 0), True)))\n"
    )
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, stdout=-1, text=True, cwd=Path(__file__).parents[2]) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].strip() for process in both] == ["''", "''"]
    (file,) = probe.files
    assert json.loads(file.read_text())["failure"] == ""
    assert probe.ask("raise SystemExit(1)") == "" and probe.count == 0


def test_exit_codes_of_windows_are_named() -> None:
    assert how_ended(0xC0000005) == "exit code 0xC0000005 (access violation)"
    assert outcome_of('{"begun": true}', how_ended(0xC0000409), "").lasting
    assert not outcome_of('{"begun": true}', how_ended(0xC000013A), "").lasting


# The child itself.


def run_child(*arguments: str) -> tuple[int, list[dict]]:
    done = subprocess.run([sys.executable, str(CHILD), *arguments], capture_output=True, text=True, check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_child_says_that_there_is_no_device() -> None:
    code, lines = run_child("0", "native", torch.__version__)
    assert code == 1 and lines == [{"works": False, "reason": "PyTorch finds no CUDA device in a new process"}]


def test_the_child_says_that_it_has_another_torch() -> None:
    _, (line,) = run_child("0", "native", "1.0")
    assert line["works"] is False and torch.__version__ in line["reason"]


class RecordedOperations(TorchDispatchMode):
    """Keeps the operations that run, to run them again on the same tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.again: list[Callable[[], None]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))

        def replay() -> None:
            new = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and new.data_ptr() != result.data_ptr():
                result.copy_(new)

        # A view stays one; PyTorch versions differ in how many it takes.
        is_view = function.is_view and result.untyped_storage().data_ptr() == args[0].untyped_storage().data_ptr()
        if not is_view:
            self.again.append(replay)
        return result


class FakeGraph:
    """A CUDA graph on a CPU."""

    alive = 0

    def capture_begin(self, pool: object, capture_error_mode: str) -> None:
        assert pool == "pool" and capture_error_mode == "thread_local"
        self.recorded = RecordedOperations()
        self.recorded.__enter__()
        FakeGraph.alive += 1

    def capture_end(self) -> None:
        self.recorded.__exit__(None, None, None)

    def replay(self) -> None:
        for run in self.recorded.again:
            run()

    def reset(self) -> None:
        FakeGraph.alive -= 1


def fake_cuda() -> dict[str, Any]:
    stream = SimpleNamespace(wait_stream=lambda other: None)
    return {
        "is_available": lambda: True,
        "set_device": lambda index: None,
        "get_allocator_backend": lambda: "native",
        "get_device_capability": lambda device: (8, 0),
        "Stream": lambda device: stream,
        "current_stream": lambda: stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "graph_pool_handle": lambda: "pool",
        "CUDAGraph": FakeGraph,
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
    }


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The child's program, whose device "cuda" is the CPU."""
    spec = importlib.util.spec_from_file_location("capture_probe_child", CHILD)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "prepare_process", lambda: None)
    monkeypatch.setattr(module, "FREED_BYTES", 2**10)
    opened = module.open_device
    monkeypatch.setattr(module, "open_device", lambda *given: opened(*given) and torch.device("cpu"))
    for name, value in fake_cuda().items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(FakeGraph, "alive", 0)
    return module


def lines_of(child: Any, capsys: pytest.CaptureFixture[str], allocator: str = "native") -> list[dict]:
    child.main(["0", allocator, torch.__version__])
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_child_reports_each_result(child: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert lines_of(child, capsys) == [{"begun": True}, {"works": True}, {"allocating": True}]
    assert FakeGraph.alive == 0


def test_the_child_says_that_it_has_another_allocator(child: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = lines_of(child, capsys, "cudaMallocAsync")
    assert line == {"works": False, "reason": "a new process has the allocator native, not cudaMallocAsync"}


@pytest.mark.parametrize(("hip", "major", "expected"), [(None, 7, False), (None, 8, True), ("6.4", 7, True)])
def test_the_child_computes_in_bf16_where_the_engine_does(
    child: Any, monkeypatch: pytest.MonkeyPatch, hip: str | None, major: int, expected: bool
) -> None:
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (major, 5))
    gpu = torch.device("cuda")
    assert child.has_bf16(torch, gpu) == has_bf16(gpu) == expected


def test_the_child_notices_a_replay_that_computes_something_else(
    child: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for missing in range(7):

        def replay(graph: FakeGraph, missing: int = missing) -> None:
            for index, run in enumerate(graph.recorded.again):
                if index != missing:
                    run()

        monkeypatch.setattr(FakeGraph, "replay", replay)
        _, line = lines_of(child, capsys)
        assert "other values" in line["reason"] and line["works"] is False, missing
        # The child has freed everything before it says so.
        assert FakeGraph.alive == 0


@pytest.mark.parametrize(
    ("error", "reason", "lack"),
    [
        (RuntimeError("CUDA error: not permitted\nmore"), "RuntimeError: CUDA error: not permitted", False),
        (torch.OutOfMemoryError("CUDA out of memory."), "OutOfMemoryError: CUDA out of memory.", True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), "RuntimeError: CUBLAS_STATUS_ALLOC_FAILED", True),
    ],
)
def test_the_child_reports_a_capture_that_fails(
    child: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Any, reason: str, lack: bool
) -> None:
    def end(graph: FakeGraph) -> None:
        graph.recorded.__exit__(None, None, None)
        raise error

    monkeypatch.setattr(FakeGraph, "capture_end", end)
    _, line = lines_of(child, capsys)
    assert line == {"works": False, "reason": reason, **({"out_of_memory": True} if lack else {})}


def test_the_first_steps_allocate_nothing_and_the_others_do(child: Any) -> None:
    allocated = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            given = [*args, *(kwargs or {}).values()]
            known = {one.untyped_storage().data_ptr() for one in given if isinstance(one, torch.Tensor)}
            allocated[-1] += result.untyped_storage().data_ptr() not in known
            return result

    for kind in (child.BufferedStep, child.AllocatingStep):
        step = kind(torch, torch.device("cpu"), torch.bfloat16, 4)
        allocated.append(0)
        with Watch():
            step()
    assert allocated[0] == 0 and allocated[1] > 5


def test_no_file_beside_the_child_hides_a_library(tmp_path: Path) -> None:
    script = tmp_path / CHILD.name
    script.write_bytes(CHILD.read_bytes())
    (tmp_path / "torch.py").write_text("raise SystemExit('the wrong torch')", encoding="utf-8")
    command = [sys.executable, str(script), "0", "native", "1.0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert torch.__version__ in done.stdout and "wrong" not in done.stderr
