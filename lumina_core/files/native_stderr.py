"""Catches what a library in C or Rust prints on stderr: libtiff reports broken files there, Rust its panics."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def native_stderr() -> Iterator[list[str]]:
    """Lines that the process writes to file descriptor 2 meanwhile; the list is filled on leaving.

    Lines of other threads are caught too. Without a descriptor 2, as under pythonw, nothing is caught.
    """
    lines: list[str] = []
    try:
        kept = os.dup(2)
    except OSError:
        yield lines
        return
    try:
        with tempfile.TemporaryFile() as caught:
            os.dup2(caught.fileno(), 2)
            try:
                yield lines
            finally:
                os.dup2(kept, 2)
                caught.seek(0)
                lines += caught.read().decode("utf-8", "replace").splitlines()
    finally:
        os.close(kept)
