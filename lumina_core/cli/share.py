"""The share of one process of several that draw one file of prompts, as torchrun starts them.

torchrun sets RANK, WORLD_SIZE and LOCAL_RANK; nothing else of it is needed. A process never talks to another one: its
share follows from the place of a prompt in the file alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..device import choose_device
from ..errors import InputError

RANK, WORLD_SIZE, LOCAL_RANK = "RANK", "WORLD_SIZE", "LOCAL_RANK"
MOST_PROCESSES = 10**6
# Each process takes one device of these, unless the user numbers one.
_SEVERAL = ("cuda", "xpu")


@dataclass(frozen=True)
class Share:
    """Process `rank` of `world_size`. `local_rank` is its number on this machine, None without torchrun."""

    rank: int = 0
    world_size: int = 1
    local_rank: int | None = None

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> Share:
        """The share that torchrun says; all of the work without it. Raises InputError for values that make no sense."""
        found = {name: environment[name] for name in (RANK, WORLD_SIZE, LOCAL_RANK) if name in environment}
        if not found:
            return cls()
        for name in (RANK, WORLD_SIZE, LOCAL_RANK):
            if name not in found:
                others = " and ".join(f"{other}={found[other]}" for other in found)
                raise InputError(
                    f"the environment has {others} and no {name}; expected all of {RANK}, {WORLD_SIZE} and "
                    f"{LOCAL_RANK}, as torchrun sets them, or none of them"
                )
        world_size = _number(WORLD_SIZE, found[WORLD_SIZE], 1, MOST_PROCESSES)
        rank = _number(RANK, found[RANK], 0, world_size - 1)
        return cls(rank, world_size, _number(LOCAL_RANK, found[LOCAL_RANK], 0, world_size - 1))

    def takes(self, index: int) -> bool:
        """Whether a prompt of this place in the file, from 0, is one of this share."""
        return index % self.world_size == self.rank

    def device(self, name: str) -> torch.device:
        """The device of this process: its own one for auto and a kind of GPU. Raises InputError as `choose_device`."""
        device = choose_device(name)
        if self.local_rank is None or device.type not in _SEVERAL or ":" in name:
            return device
        try:
            device = choose_device(f"{device.type}:{self.local_rank}")
        except InputError as error:
            raise InputError(
                f"{LOCAL_RANK} is {self.local_rank}: {error}; start no more processes on a machine than it has GPUs"
            ) from error
        getattr(torch, device.type).set_device(device)  # kernels start on the current device
        return device

    def __str__(self) -> str:
        """Before a line that several processes may print."""
        return "" if self.world_size == 1 else f"process {self.rank} of {self.world_size}: "


def _number(name: str, text: str, low: int, high: int) -> int:
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(MOST_PROCESSES))
    if not is_number or not low <= int(text) <= high:
        raise InputError(f"the environment has {name}={text!r:.40}; expected a whole number from {low} to {high}")
    return int(text)
