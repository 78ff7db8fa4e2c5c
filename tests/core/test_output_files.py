"""Files are written whole or not at all, whatever ends the process; temporary files of killed processes are removed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lumina_core.errors import InputError
from lumina_core.files import temporary
from lumina_core.files.output_files import OutputFiles, check_output, write_new

ROOT = Path(__file__).parents[2]
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals, locks and links as on POSIX systems")
DAY = 24 * 60 * 60


def refuse(code: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def no_anonymous_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on file systems and systems without O_TMPFILE."""
    monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY | os.O_RDWR, raising=False)  # EISDIR


def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refuse(errno.EPERM))


def nothing_missing(_: pytest.MonkeyPatch) -> None:
    pass


@pytest.fixture(params=[nothing_missing, no_anonymous_files, no_links])
def any_file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    request.param(monkeypatch)


def write_all(folder: Path, content: bytes = b"new") -> None:
    with OutputFiles() as files:
        for name in ("a", "b", "c"):
            files.write(folder / name, lambda file: file.write(content))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.usefixtures("any_file_system")
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_a_stream_is_no_output(name: str) -> None:
    """Behind it may be a file, which would be replaced."""
    with pytest.raises(InputError, match="stream of a process"):
        check_output(Path(name))


def test_files_replace_those_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    write_all(tmp_path)
    assert contents(tmp_path) == dict.fromkeys("abc", b"new")


@POSIX
@pytest.mark.usefixtures("any_file_system")
def test_mode_obeys_the_umask_which_is_never_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", refuse(errno.EPERM))
        write_all(tmp_path)
        write_new([tmp_path / "d"], lambda file: file.write(b"new"))
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


@pytest.mark.usefixtures("any_file_system")
def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def fail_at_the_third() -> None:
        with OutputFiles() as files:
            files.write(tmp_path / "a", lambda file: file.write(b"new"))
            files.write(tmp_path / "b", lambda file: file.write(b"new"))
            files.write(tmp_path / "c", refuse(errno.ENOSPC))

    with pytest.raises(InputError, match=r"c: No space left on device"):
        fail_at_the_third()
    assert contents(tmp_path) == {"a": b"old"}


@pytest.mark.usefixtures("any_file_system")
@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("is_late", [False, True])
def test_an_interrupt_between_the_moves_comes_after_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_late: bool
) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(b"old")
    calls, replace = iter(range(99)), os.replace

    def interrupted(*paths: Path) -> None:
        is_now = next(calls) == number
        if not is_now or is_late:
            replace(*paths)
        if is_now:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_all(tmp_path)
    assert contents(tmp_path) == dict.fromkeys("abc", b"new")


def names(folder: Path) -> Iterator[Path]:
    return (folder / f"picture_{number}.png" for number in range(5))


@pytest.mark.usefixtures("any_file_system")
def test_a_new_file_takes_the_first_free_name(tmp_path: Path) -> None:
    made = [write_new(names(tmp_path), lambda file, k=k: file.write(b"%d" % k)) for k in range(5)]
    assert made == list(names(tmp_path))
    assert contents(tmp_path) == {f"picture_{k}.png": b"%d" % k for k in range(5)}
    with pytest.raises(InputError, match=r"picture_0.png: every name of this kind is taken"):
        write_new(names(tmp_path), lambda file: file.write(b"more"))
    assert len(contents(tmp_path)) == 5


@pytest.mark.usefixtures("any_file_system")
def test_a_name_that_is_taken_while_the_content_is_written_is_not_overwritten(tmp_path: Path) -> None:
    def write(file: object) -> None:
        first = write_new(names(tmp_path), lambda file: file.write(b"first"))
        assert first.name == "picture_0.png"
        file.write(b"second")  # type: ignore[attr-defined]

    assert write_new(names(tmp_path), write).name == "picture_1.png"
    assert contents(tmp_path) == {"picture_0.png": b"first", "picture_1.png": b"second"}


@POSIX
def test_a_killed_process_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_while_writing(tmp_path, "")
    if sys.platform == "linux":
        assert contents(tmp_path) == {}


@POSIX
def test_the_next_save_removes_what_a_killed_process_left_and_nothing_else(tmp_path: Path) -> None:
    kill_while_writing(tmp_path, "os.O_TMPFILE = os.O_DIRECTORY | os.O_RDWR")
    (left,) = contents(tmp_path)
    assert left.startswith(".lumina-")
    earlier, recent, other = ".lumina-a1b2c3d4", ".lumina-d4c3b2a1", ".lumina-a1b2c3d4.png"
    for name in (earlier, recent, other, ".lumina-notes", "lumina"):
        (tmp_path / name).touch()
    for name in (earlier, other, ".lumina-notes", "lumina"):
        os.utime(tmp_path / name, (time.time() - 2 * DAY,) * 2)
    (tmp_path / ".lumina-0123456789abcdef.tmp").mkdir()
    check_output(tmp_path / "o")
    write_new([tmp_path / "o"], lambda file: file.write(b""))
    kept = {recent, other, ".lumina-notes", "lumina", ".lumina-0123456789abcdef.tmp", "o"}
    assert {path.name for path in tmp_path.iterdir()} == kept


@POSIX
def test_the_file_of_a_living_process_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_anonymous_files(monkeypatch)
    with OutputFiles() as files:
        files.write(tmp_path / "a", lambda file: file.write(b"first"))
        (live,) = contents(tmp_path)
        os.utime(tmp_path / live, (0, 0))
        write_new([tmp_path / "b"], lambda file: file.write(b"second"))
        assert set(contents(tmp_path)) == {live, "b"}
    assert contents(tmp_path) == {"a": b"first", "b": b"second"}


@POSIX
def test_without_locks_only_what_is_old_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary.fcntl, "flock", refuse(errno.ENOLCK))
    young, old = tmp_path / ".lumina-0123456789abcdef.tmp", tmp_path / ".lumina-fedcba9876543210.tmp"
    for path in (young, old):
        path.touch()
    os.utime(old, (0, 0))
    write_all(tmp_path)
    assert set(contents(tmp_path)) == {"a", "b", "c", young.name}


@POSIX
def test_a_large_batch_needs_more_open_files_than_the_process_may_have(tmp_path: Path) -> None:
    program = (
        "import resource, sys; from pathlib import Path; from lumina_core.files.output_files import OutputFiles;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "with OutputFiles() as files:\n"
        "    for k in range(100): files.write(Path(sys.argv[1], str(k)), lambda file: file.write(b'new'))"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path], cwd=ROOT, check=True)
    assert contents(tmp_path) == dict.fromkeys(map(str, range(100)), b"new")


@pytest.mark.parametrize("name", ["a\0b.png", "a\ud800b.png"])
def test_what_no_path_can_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="is no path"):
        check_output(tmp_path / name)


def kill_while_writing(folder: Path, before: str) -> None:
    """Writes a file in a process that is killed with the content complete and nothing in place."""
    program = (
        "import os, signal, sys; from pathlib import Path; from lumina_core.files.output_files import OutputFiles\n"
        f"{before}\n"
        "with OutputFiles() as files:\n"
        "    files.write(Path(sys.argv[1], 'a'), lambda file: file.write(b'new'))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program, folder], cwd=ROOT, check=False).returncode == -9
