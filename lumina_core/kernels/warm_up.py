"""Tells a listener of the work that only a first run does: compiling, testing and capturing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

KERNELS = "building and testing kernels"
PROBE = "testing CUDA graphs in a child process"
CAPTURE = "capturing CUDA graphs"

OnWarmUp = Callable[[str], object]
# Of the current thread, and only within `told_to`. An argument would end up in the caches of choices and verdicts.
_listener: ContextVar[OnWarmUp | None] = ContextVar("on_warm_up", default=None)


@contextlib.contextmanager
def told_to(listener: OnWarmUp) -> Iterator[None]:
    """Within the body, `listener` is called with what begins: KERNELS, PROBE or CAPTURE, each perhaps many times.

    Nothing is told where there is nothing to warm up, as on a CPU. An exception that it raises ends the run.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(what: str) -> None:
    """Called before such work begins."""
    if (listener := _listener.get()) is not None:
        listener(what)
