"""The stages, in the order of running."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

PACKAGE = __package__


@dataclass(frozen=True)
class Stage:
    """A part of the suite that runs in its own process.

    `seconds` is its planned time. `interpreted`: in a dry run its kernels run in Triton's interpreter. `optional`: it
    runs only if it is named.
    """

    name: str
    seconds: float
    interpreted: bool = False
    optional: bool = False
    command: tuple[str, ...] = ()

    def arguments(self, dry_run: bool, limit: float) -> list[str]:
        """The command line of its process, which ends within `limit` seconds from now."""
        if self.command:
            return list(self.command)
        dry = ["--dry-run"] if dry_run else []
        return [sys.executable, "-m", f"{PACKAGE}.stage", self.name, "--end", f"{time.monotonic() + limit:.1f}", *dry]


STAGES = (
    Stage("environment", 10),
    Stage("build", 20),
    Stage("self_tests", 60, interpreted=True),
    Stage("steps", 90),
    Stage("profile", 25),
    Stage("matmul", 95, interpreted=True),
    Stage("attention", 50, interpreted=True),
    Stage("captured_steps", 60),
    Stage("allocators", 30),
    Stage("draw", 40),
    Stage("movqgan", 20),
    Stage("small_kernels", 20, interpreted=True, optional=True),
    Stage("weights", 60, optional=True),
    Stage("ncu", 40, optional=True),
)
