"""Catches what a library in C or Rust prints on stderr: libtiff reports broken files there, Rust its panics."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator

# Two threads that take each other's descriptor would leave stderr in a file that is gone.
_ONE_AT_A_TIME = threading.Lock()


@contextlib.contextmanager
def native_stderr() -> Iterator[list[str]]:
    """Lines that the process writes to file descriptor 2 meanwhile; the list is filled on leaving.

    Lines of other threads are caught too: what the caller leaves in the list is printed after all, unless an error is
    raised. Without a descriptor 2, as under pythonw, nothing is caught.
    """
    lines: list[str] = []
    with _ONE_AT_A_TIME, contextlib.ExitStack() as stack:
        try:
            kept = os.dup(2)
            stack.callback(os.close, kept)
            caught = stack.enter_context(tempfile.TemporaryFile())
        except OSError:
            yield lines
            return
        os.dup2(caught.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(kept, 2)
            caught.seek(0)
            lines += caught.read().decode("utf-8", "replace").splitlines()


def print_again(lines: list[str]) -> None:
    """Prints caught lines where they were meant to go."""
    with contextlib.suppress(OSError):
        os.write(2, "".join(f"{line}\n" for line in lines).encode())
