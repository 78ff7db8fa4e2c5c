"""Files that are being written: without a name where the system allows it, else under a locked temporary name."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import time
from pathlib import Path
from typing import BinaryIO

if os.name == "posix":
    import fcntl

PREFIX = ".lumina-"
DAY = 24 * 60 * 60
_NAME = re.compile(r"\.lumina-[0-9a-f]{16}\.tmp")
# Earlier versions used these names, and held no lock.
_EARLIER_NAME = re.compile(r"\.lumina-[a-z0-9_]{8}")
_FLAGS = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOINHERIT", 0)
COPIED_AT_ONCE = 2**20
# How many more files a process may open when a large batch of pictures needs them.
MORE_HANDLES = 2048


class Draft:
    """The content of a file that `replace` or `create` puts into a folder, whole and atomically.

    On Linux it has no name until then, so that a killed process leaves nothing. Elsewhere, or where the file system
    refuses, it has a temporary name and an exclusive lock while this process lives; `remove_stale` removes what a
    killed one left. The mode obeys the umask.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file: BinaryIO | None = None
        self._names: list[Path] = []
        self._name: Path | None = None
        self._facts: os.stat_result | None = None  # of the closed file, which Windows needs to move it

    def open(self) -> BinaryIO:
        """Opens the file for writing. Raises OSError."""
        try:
            handle = self._open()
        except OSError as error:
            if error.errno != errno.EMFILE or not _allow_more_handles():
                raise
            handle = self._open()
        self.file = os.fdopen(handle, "w+b")
        return self.file

    def finish(self) -> None:
        """Waits until the content is on the disk: after a power cut no file must exist without it."""
        file = self._opened
        file.flush()
        os.fsync(file.fileno())

    def replace(self, target: Path) -> None:
        """Puts the file at `target`, in place of what is there. May be called again after an interrupt."""
        if self.is_at(target) or (self._name is None and self._link_to(target)):
            return
        os.replace(self._named(), target)

    def create(self, path: Path) -> None:
        """Puts the file at `path` if nothing is there; overwrites nothing. `is_at` tells whether it did."""
        if self.is_at(path) or os.path.lexists(path):
            return
        if (self._name is None and self._link_to(path)) or os.path.lexists(path):
            return
        _move_without_overwriting(self._named(), path)

    def is_at(self, path: Path) -> bool:
        """Whether the file is at a path."""
        with contextlib.suppress(OSError):
            return os.path.samestat(os.lstat(path), self._facts or os.fstat(self._opened.fileno()))
        return False

    def discard(self) -> None:
        """Closes the file and removes what temporary names are left. Raises nothing."""
        if os.name == "nt":  # there an open file is not removed
            self._close()
        for name in self._names:
            with contextlib.suppress(OSError):
                os.unlink(name)
        self._close()

    @property
    def _opened(self) -> BinaryIO:
        assert self.file is not None, "the draft is not open"
        return self.file

    def _close(self) -> None:
        if self.file is not None and not self.file.closed:
            self._facts = os.fstat(self.file.fileno())
            with contextlib.suppress(OSError):
                self.file.close()

    def _open(self) -> int:
        if os.name == "posix" and hasattr(os, "O_TMPFILE") and os.path.exists("/proc/self/fd"):
            with contextlib.suppress(OSError):
                handle = os.open(self.folder, _FLAGS | os.O_TMPFILE, 0o666)
                _lock(handle)
                return handle
        return self._open_named()

    def _open_named(self) -> int:
        """A new file under a temporary name. A sweep that meets it before it is locked may remove it: then another."""
        while True:
            name = self._new_name()
            handle = os.open(name, _FLAGS | os.O_CREAT | os.O_EXCL, 0o666)
            _lock(handle)
            with contextlib.suppress(FileNotFoundError):
                if os.name == "nt" or os.path.samestat(os.stat(name), os.fstat(handle)):
                    self._name = name
                    return handle
            os.close(handle)

    def _new_name(self) -> Path:
        """A temporary name, listed before it exists, so that it is removed whatever interrupts."""
        self._names.append(self.folder / f"{PREFIX}{secrets.token_hex(8)}.tmp")
        return self._names[-1]

    def _named(self) -> Path:
        """The temporary name, ready to be moved. A file without one gets it, as a link or else as a copy."""
        if self._name is None:
            name = self._new_name()
            self._name = name if self._link_to(name) else self._copy()
        if os.name == "nt":  # there an open file is not moved
            self._close()
        return self._name

    def _copy(self) -> Path:
        source, self.file, self._name = self._opened, None, None
        self.file = os.fdopen(self._open_named(), "w+b")
        with source:
            source.seek(0)
            shutil.copyfileobj(source, self.file, COPIED_AT_ONCE)
        self.finish()
        assert self._name is not None
        return self._name

    def _link_to(self, path: Path) -> bool:
        """Whether the file without a name now has this one; False where the name is taken or links are refused."""
        source = f"/proc/self/fd/{self._opened.fileno()}"
        with contextlib.suppress(OSError):
            # With a folder of the source Python follows the link in /proc; without, it links the link itself.
            os.link(source, path, src_dir_fd=self._opened.fileno(), follow_symlinks=True)
            return True
        return False


def remove_stale(folder: Path) -> None:
    """Removes temporary files of processes that are gone; those that a living process holds stay. Raises nothing."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(PREFIX) and (_NAME.fullmatch(entry.name) or _EARLIER_NAME.fullmatch(entry.name)):
                with contextlib.suppress(OSError):
                    _remove_if_stale(Path(entry.path))


def _remove_if_stale(path: Path) -> None:
    facts = os.lstat(path)
    if not stat.S_ISREG(facts.st_mode) or (os.name == "posix" and facts.st_uid != os.geteuid()):
        return
    is_old = time.time() - facts.st_mtime > DAY
    if os.name == "nt":  # an open file is not removed there
        if is_old or _NAME.fullmatch(path.name):
            os.unlink(path)
        return
    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        is_free = _try_lock(handle)
        if is_free is not False and (is_old or (is_free and _NAME.fullmatch(path.name))):
            os.unlink(path)
    finally:
        os.close(handle)


def _allow_more_handles() -> bool:
    """Whether the process may now open more files than it could."""
    try:
        import resource
    except ImportError:  # Windows
        return False
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    more = now + MORE_HANDLES if most == resource.RLIM_INFINITY else min(now + MORE_HANDLES, most)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (more, most))
        return more > now
    return False


def _try_lock(handle: int) -> bool | None:
    """Whether no process holds the lock; None where the file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _lock(handle: int) -> None:
    """Locks a file as long as it is open, where the file system has locks."""
    if os.name == "posix":
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)


def _move_without_overwriting(name: Path, path: Path) -> None:
    """Gives the file the name `path` unless that is taken."""
    try:
        if os.name == "nt":
            os.rename(name, path)  # fails there where the name is taken
        else:
            os.link(name, path)
    except FileExistsError:
        return
    except OSError:  # a file system without links: an empty file reserves the name
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:
            return
        os.replace(name, path)
