"""The threads of a computation on a CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

# Multiplications of a forward below which one thread does it: with more, threads mostly wait for one another, and where
# other programs use the processor, a forward can take twenty times as long (a demo of half the work, November 2026).
ONE_THREAD_WORK = 2**31


@contextlib.contextmanager
def threads_for(work: float, device: torch.device) -> Iterator[None]:
    """torch's threads for forwards of so many multiplications on a device: one for few on a CPU, else all as before.

    The number is set back afterwards. It belongs to the calling thread: computations in others keep theirs.
    """
    before = torch.get_num_threads()
    if device.type != "cpu" or work >= ONE_THREAD_WORK or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
