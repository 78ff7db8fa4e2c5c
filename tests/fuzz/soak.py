"""python -m tests.fuzz.soak --draws 1000: pictures of all kinds through one Lumina; memory must not grow."""

from __future__ import annotations

import argparse
import ctypes
import gc
import logging
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from tqdm import tqdm

from lumina_core.decoding.settings import DECODERS, StepReport
from lumina_core.errors import InputError
from lumina_core.pipeline import Lumina

from .place import Base, make_picture

# After these the libraries have allocated what they keep.
WARM_UP_SHARE = 0.1
MOST_GROWTH_BYTES = 20 * 2**20
SIZES = (32, 64, 96)
BAD = (
    *({"tree": 65}, {"tree": 8, "decoder": "sjd"}, {"tree": 8, "window_size": 1}),
    *({"width": 33}, {"height": 0}, {"window_size": 0}, {"cfg_scale": float("nan")}, {"decoder": "magic"}),
    *({"seed": -1}, {"width": 8192}),
)


class Cancelled(Exception):
    """Raised by a progress callback."""


@dataclass(frozen=True)
class Sample:
    """What the process holds: resident bytes, open descriptors, threads of Python and of the system."""

    resident: int
    descriptors: int
    threads: int
    system_threads: int

    @classmethod
    def take(cls) -> Sample:
        gc.collect()
        trim_heap()
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return cls(
            int(status["VmRSS"].split()[0]) * 1024,
            len(os.listdir("/proc/self/fd")),
            threading.active_count(),
            int(status["Threads"]),
        )


@dataclass(frozen=True)
class Soak:
    """Samples after the warm-up and after the last draw, and how the draws ended."""

    first: Sample
    last: Sample
    drawn: int
    refused: int
    cancelled: int

    @property
    def growth(self) -> int:
        return self.last.resident - self.first.resident

    def problems(self) -> list[str]:
        """What a reader must know: growth of memory, of descriptors or of threads."""
        found = []
        if self.growth > MOST_GROWTH_BYTES:
            found.append(f"resident memory grew by {self.growth / 2**20:.1f} MiB")
        for name in ("descriptors", "threads", "system_threads"):
            before, after = getattr(self.first, name), getattr(self.last, name)
            if after != before:
                found.append(f"{name.replace('_', ' ')}: {before} before, {after} after")
        return found


def soak(lumina: Lumina, draws: int, seed: int = 0, keep: object = None) -> Soak:
    """Draws `draws` pictures or batches, every sixth attempt bad input and every seventh cancelled.

    `keep` is a list to which every drawing is added: a deliberate leak, for the test of this test.
    """
    random, first = Random(seed), None
    counts = {"drawn": 0, "refused": 0, "cancelled": 0}
    for number in tqdm(range(draws), disable=None):
        counts[_attempt(lumina, random, number, keep)] += 1
        if number + 1 == max(1, int(draws * WARM_UP_SHARE)):
            first = Sample.take()
    assert first is not None
    return Soak(first, Sample.take(), **counts)


def _attempt(lumina: Lumina, random: Random, number: int, keep: object) -> str:
    if number % 6 == 4:
        return _refused(lumina, random)
    if number % 7 == 5:
        return _cancelled(lumina, random)
    drawing = lumina.draw("a red square", **arguments_of(random))  # type: ignore[arg-type]
    assert len(drawing.images) == len(drawing.codes)
    if isinstance(keep, list):
        keep.append((drawing, os.urandom(2 * 2**20)))
    return "drawn"


def arguments_of(random: Random) -> dict[str, object]:
    """Any size, decoder, window, tree, number of pictures and settings; at times a picture to continue."""
    arguments: dict[str, object] = {
        "width": random.choice(SIZES),
        "height": random.choice(SIZES),
        "batch": random.choice([1, 1, 2, 3]),
        "seed": random.randrange(2**63),
        "decoder": random.choice(DECODERS),
        "window_size": random.choice([1, 2, 7, 16, 32, 128]),
        "cfg_scale": random.choice([0.0, 1.0, 4.0, 7.5]),
        "top_k": random.choice([1, 10, 4096]),
        "temperature": random.choice([0.5, 1.0, 2.0]),
        "kv_cache": random.choice(["auto", "int8", "int4"]),
    }
    if arguments["decoder"] == "gumbel" and arguments["window_size"] != 1:
        arguments["tree"] = random.choice([None, 0, 1, 16, 64])
    if random.random() < 0.2:
        condition = make_picture((random.choice([40, 100]), 300))
        arguments |= (
            {"condition": condition, "given_height": 16}
            if random.random() < 0.5
            else {
                "condition": condition,
                "task": "edit",
                "height": 64,
            }
        )
    return arguments


def _refused(lumina: Lumina, random: Random) -> str:
    try:
        lumina.draw("a red square", **{**arguments_of(random), **random.choice(BAD)})  # type: ignore[arg-type]
    except InputError:
        return "refused"
    raise AssertionError("bad input was drawn")


def _cancelled(lumina: Lumina, random: Random) -> str:
    """Cancels at a random step; a picture of fewer steps is drawn."""
    last = random.randint(1, 6)
    steps = 0

    def on_step(report: StepReport) -> None:
        nonlocal steps
        steps += 1
        if steps >= last:
            raise Cancelled

    try:
        lumina.draw("a red square", on_step=on_step, **arguments_of(random))  # type: ignore[arg-type]
    except Cancelled:
        return "cancelled"
    return "drawn"


def trim_heap() -> None:
    """Gives what the allocator keeps free back to the system, where it can: what stays is in use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.soak", description=__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lumina_core").setLevel(logging.ERROR)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="lumina-soak-") as folder:
        ended = soak(
            Lumina.load(Base.make(Path(folder) / "base").checkpoint, device="cpu"), options.draws, options.seed
        )
    print(f"{options.draws} attempts in {time.perf_counter() - start:.0f} s")
    print(f"{ended.drawn} drawn, {ended.refused} refused, {ended.cancelled} cancelled")
    for when, sample in (("after the warm-up", ended.first), ("at the end", ended.last)):
        print(
            f"{when}: {sample.resident / 2**20:.1f} MiB resident, {sample.descriptors} descriptors, {sample.threads} "
            f"threads ({sample.system_threads} of the system)"
        )
    print("\n".join(ended.problems()) or f"nothing grew ({ended.growth / 2**20:+.1f} MiB)")
    return 1 if ended.problems() else 0


if __name__ == "__main__":
    sys.exit(main())
