"""A container's limit on memory counts, a process's too, and so does what is in use."""

from __future__ import annotations

import ctypes
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lumina_core.device import HOST_SHARE, available_bytes, free_bytes, total_bytes
from lumina_core.errors import OutOfMemory
from lumina_core.host import limits
from lumina_core.host.limits import check_process_limits, process_limits
from lumina_core.host.memory import Host, macos_available_bytes, windows_bytes

GIB = 2**30
CPU = torch.device("cpu")


class FakeLinux:
    """A /proc of a host with 24 GiB, 20 of them available, and mounted control groups beside it."""

    def __init__(self, root: Path):
        self.proc, self.mounts = root / "proc", root / "mounts"
        (self.proc / "self").mkdir(parents=True)
        self.write(self.proc / "meminfo", f"MemTotal: {24 * 2**20} kB\nMemFree: 9 kB\nMemAvailable: {20 * 2**20} kB\n")
        self.write(self.proc / "self/status", "Name:\tpython\nVmSize:\t 1048576 kB\nVmData:\t 524288 kB\n")
        self.host = Host("linux", self.proc)

    def write(self, path: Path, content: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")

    def in_group(self, path: str, root: str = "/", version: int = 2) -> Path:
        """Puts the process into a group; gives the folder in which the hierarchy is mounted."""
        folder = self.mounts / f"v{version} mount"
        kind, options, line = ("cgroup2", "rw", "0::") if version == 2 else ("cgroup", "rw,memory", "4:cpu,memory:")
        self.write(self.proc / "self/cgroup", f"1:name=systemd:/\n{line}{path}")
        escaped = str(folder).replace(" ", "\\040")
        self.write(self.proc / "self/mountinfo", f"32 31 0:29 {root} {escaped} rw shared:9 - {kind} none {options}")
        return folder

    def limit(self, folder: Path, most: object, used: int, inactive: int = 0, version: int = 2) -> None:
        names = {1: ("limit_in_bytes", "usage_in_bytes", "total_"), 2: ("max", "current", "")}[version]
        self.write(folder / f"memory.{names[0]}", most)
        self.write(folder / f"memory.{names[1]}", used)
        self.write(folder / "memory.stat", f"anon 7\n{names[2]}inactive_file {inactive}\nactive_file 3")


@pytest.fixture
def linux(tmp_path: Path) -> FakeLinux:
    return FakeLinux(tmp_path)


def test_without_a_limit_it_is_what_the_host_has(linux: FakeLinux) -> None:
    assert (linux.host.total_bytes(), linux.host.available_bytes()) == (24 * GIB, 20 * GIB)
    linux.limit(linux.in_group("/user") / "user", "max", 5 * GIB)
    assert (linux.host.total_bytes(), linux.host.available_bytes()) == (24 * GIB, 20 * GIB)
    linux.limit(linux.in_group("/user", version=1) / "user", 2**63 - 4096, 5 * GIB, version=1)
    assert (linux.host.total_bytes(), linux.host.available_bytes()) == (24 * GIB, 20 * GIB)


@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_limit_counts_less_what_is_used_in_it(linux: FakeLinux, version: int) -> None:
    folder = linux.in_group("/docker/abc", version=version) / "docker/abc"
    linux.limit(folder, 8 * GIB, 6 * GIB, version=version)
    assert (linux.host.total_bytes(), linux.host.available_bytes()) == (8 * GIB, 2 * GIB)


@pytest.mark.parametrize("version", [1, 2])
def test_page_cache_that_the_kernel_frees_at_once_is_available(linux: FakeLinux, version: int) -> None:
    folder = linux.in_group("/docker/abc", version=version) / "docker/abc"
    linux.limit(folder, 8 * GIB, 6 * GIB, inactive=GIB, version=version)
    assert linux.host.available_bytes() == 3 * GIB


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_a_group_above_counts(linux: FakeLinux, version: int) -> None:
    top = linux.in_group("/pods/one/container", version=version)
    linux.limit(top / "pods/one/container", 12 * GIB, GIB, version=version)
    linux.limit(top / "pods", 6 * GIB, 5 * GIB, version=version)
    assert (linux.host.total_bytes(), linux.host.available_bytes()) == (6 * GIB, GIB)


@pytest.mark.parametrize("path", ["/docker/abc", "/../../docker/abc", "/"])
@pytest.mark.parametrize("root", ["/docker/abc", "/"])
@pytest.mark.parametrize("version", [1, 2])
def test_a_container_sees_its_group_as_the_mounted_one(linux: FakeLinux, path: str, root: str, version: int) -> None:
    """Docker mounts the container's group under a path that the process's own does not lead to."""
    linux.limit(linux.in_group(path, root, version), 3 * GIB, GIB, version=version)
    assert (linux.host.total_bytes(), linux.host.available_bytes()) == (3 * GIB, 2 * GIB)


def test_a_group_that_is_slowed_down_at_a_limit_stays_below_it(linux: FakeLinux) -> None:
    folder = linux.in_group("/a") / "a"
    linux.limit(folder, "max", GIB)
    linux.write(folder / "memory.high", 4 * GIB)
    assert (linux.host.total_bytes(), linux.host.available_bytes()) == (4 * GIB, 3 * GIB)


def test_more_used_than_allowed_leaves_nothing(linux: FakeLinux) -> None:
    linux.limit(linux.in_group("/a") / "a", GIB, 2 * GIB)
    assert linux.host.available_bytes() == 0


def test_a_file_that_cannot_be_read_is_no_limit(linux: FakeLinux) -> None:
    folder = linux.in_group("/a") / "a"
    linux.limit(folder, "nonsense", GIB)
    (folder / "memory.current").unlink()
    assert linux.host.available_bytes() == 20 * GIB
    assert Host("linux", linux.proc / "absent").available_bytes() is None


# Limits of a process


@pytest.mark.parametrize(("kind", "used"), [("RLIMIT_AS", GIB), ("RLIMIT_DATA", GIB // 2)])
def test_a_limit_of_the_process_counts(linux: FakeLinux, monkeypatch: pytest.MonkeyPatch, kind: str, used: int) -> None:
    limited = getattr(resource, kind)
    monkeypatch.setattr(resource, "getrlimit", lambda asked: (4 * GIB if asked == limited else -1, -1))
    assert linux.host.total_bytes() == 4 * GIB
    (limit,) = process_limits(linux.proc)
    assert linux.host.available_bytes() == 4 * GIB - used - limit.reserved


@pytest.mark.parametrize("is_imported", [True, False])
@pytest.mark.parametrize(("kind", "used"), [("RLIMIT_AS", GIB), ("RLIMIT_DATA", GIB // 2)])
def test_threads_and_libraries_need_room(
    linux: FakeLinux, monkeypatch: pytest.MonkeyPatch, kind: str, used: int, is_imported: bool
) -> None:
    limited, bound = getattr(resource, kind), 4 * GIB
    monkeypatch.setattr(resource, "getrlimit", lambda asked: (bound if asked == limited else -1, -1))
    (limit,) = process_limits(linux.proc)
    bound = used + limit.reserved + (0 if is_imported else limit.imported)
    check_process_limits(is_imported, linux.proc)
    bound -= 1
    with pytest.raises(OutOfMemory, match=r"this process may take [0-9.]+ GB of [a-z ]+ \(ulimit -.\) and has "):
        check_process_limits(is_imported, linux.proc)


def test_many_processors_do_not_ask_for_ever_more(linux: FakeLinux, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits.os, "cpu_count", lambda: 256)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (GIB, GIB))
    assert all(limit.reserved < GIB for limit in process_limits(linux.proc))


def test_a_real_limit_is_noticed() -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30));"
        "from lumina_core.host.limits import process_limits; (limit,) = process_limits();"
        "assert limit.most == 2**30 and 2**22 < limit.used < 2**29, limit"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root)
    assert list(process_limits()) == []


# Other systems


def test_windows_counts_the_paging_file() -> None:
    def fill(status: object) -> int:
        memory = status._obj
        assert memory.length == ctypes.sizeof(memory) == 64
        memory.total, memory.available, memory.available_commit = 24 * GIB, 9 * GIB, 5 * GIB
        return 1

    assert windows_bytes(SimpleNamespace(GlobalMemoryStatusEx=fill)) == (24 * GIB, 5 * GIB)
    assert windows_bytes(SimpleNamespace(GlobalMemoryStatusEx=lambda _: 0)) == (None, None)


def test_macos_counts_pages_that_are_free_or_inactive(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free:        100.\nPages active:   900.\n"
        "Pages inactive:      50.\nPages speculative:    7.\nPages wired down:   400.\n"
    )
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=text))
    assert macos_available_bytes() == 157 * 16384

    def absent(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", absent)
    assert macos_available_bytes() is None


# What a run may take


def test_a_run_on_a_cpu_leaves_a_share_of_what_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Host, "available_bytes", lambda _: 10 * GIB)
    monkeypatch.setattr(Host, "total_bytes", lambda _: 16 * GIB)
    assert available_bytes(CPU) == free_bytes(CPU) == int(HOST_SHARE * 10 * GIB) < 10 * GIB
    assert total_bytes(CPU) == 16 * GIB


def test_what_is_loaded_already_is_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Host, "available_bytes", lambda _: 10 * GIB)
    assert available_bytes(CPU, already_loaded=GIB) == available_bytes(CPU) + GIB


def test_unknown_memory_stays_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Host, "available_bytes", lambda _: None)
    assert available_bytes(CPU, already_loaded=1) is free_bytes(CPU) is None
    assert free_bytes(torch.device("meta")) is None
