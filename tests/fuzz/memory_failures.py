"""Refuses memory at one place of a command, and judges how the command ends.

    python -m tests.fuzz.memory_failures [--count 200] [--seed 0]

A command runs once to list the places where it allocates: every operation of PyTorch, and what PIL, NumPy, safetensors
and Python read or make. Then it runs again and again, each time with a refusal at one of them, in a wording of its own.
It must end with exit code 2, one line about memory and nothing left behind, or log a fallback and make the same files.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import pkgutil
import random
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from lumina_core.kernels import linear

from .place import Arguments, Base
from .process import Log, call

ENGINE = f"{os.sep}lumina_core{os.sep}"
REFUSALS: Mapping[str, Callable[[], Exception]] = MappingProxyType(
    {
        "cpu": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        "gpu": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        "onednn": lambda: RuntimeError("could not create a primitive"),
        "mmap": lambda: RuntimeError("unable to mmap 9 bytes from file <model>: Cannot allocate memory (12)"),
        "python": MemoryError,
        "system": lambda: OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    }
)
# Calls outside PyTorch that allocate.
PATCHED = (
    *("PIL.Image.Image.load", "PIL.Image.Image.convert", "PIL.Image.Image.resize", "PIL.Image.fromarray"),
    *("PIL.Image.Image.save", "numpy.asarray", "json.dumps", "json.loads"),
    *("pathlib.Path.read_text", "pathlib.Path.read_bytes", "lumina_core.checkpoint.tensor_files.safe_open"),
)


@dataclass(frozen=True)
class Command:
    """Arguments of a command that writes into a folder."""

    name: str
    arguments: Callable[[Path], Arguments]


@dataclass
class Refuser(TorchDispatchMode):
    """Notes the line of the engine at every allocation, and raises an error at the one numbered `at`."""

    at: int | None = None
    refusal: str = "cpu"
    places: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.ops.aten.set_.source_Storage:  # allocates nothing
            self.pass_place(str(func))
        return func(*args, **(kwargs or {}))

    def pass_place(self, what: str) -> None:
        self.places.append(f"{engine_line()} {what}")
        if len(self.places) - 1 == self.at:
            raise REFUSALS[self.refusal]()

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for name in PATCHED:
                stack.enter_context(mock.patch(name, self._wrapped(name)))
            stack.enter_context(self)
            yield

    def _wrapped(self, name: str) -> Callable[..., Any]:
        original = pkgutil.resolve_name(name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if engine_line(4):  # not what PIL and PyTorch do of themselves
                self.pass_place(name)
            return original(*args, **kwargs)

        return wrapped


@dataclass(frozen=True)
class Attempt:
    """One refusal: which command, at which place, in which wording."""

    command: Command
    at: int
    place: str
    refusal: str


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, what it said and logged, and the files that it wrote."""

    code: int | None
    said: str
    log: str
    files: Mapping[str, bytes]


def engine_line(most: int = 100) -> str:
    """The innermost line of the engine that is running, at most so many frames away; "" where there is none."""
    frame = sys._getframe(1)
    for _ in range(most):
        if frame is None:
            return ""
        if ENGINE in frame.f_code.co_filename:
            return f"{frame.f_code.co_filename.rpartition(ENGINE)[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def commands(base: Base, pictures: Path) -> tuple[Command, ...]:
    """Commands that together read and write all kinds of files; `pictures` is a folder for their inputs."""
    checkpoint, picture, tokens = str(base.checkpoint), pictures / "in.png", pictures / "in.json"
    values = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(values).convert("RGBA").save(picture)
    on_cpu = ["--checkpoint", checkpoint, "--device", "cpu"]
    assert call(["encode", str(picture), *on_cpu, "--tokens-out", str(tokens)]) == (0, "")
    draw = ["generate", *on_cpu, "--prompt", "a red square", "--width", "32"]

    def generate(*more: str) -> Callable[[Path], Arguments]:
        return lambda out: [*draw, *more, *(f"--{name}out={out}/o.{kind}" for name, kind in OUTPUTS)]

    return (
        Command("generate", generate("--height=32", "--weights=fp32")),
        Command("generate int4", generate("--height=32", "--weights=int4", "--kv=int8", "--decoder=sjd", "--batch=2")),
        Command("edit", generate("--height=64", "--task=edit", f"--condition={picture}")),
        Command("encode", lambda out: ["encode", str(picture), *on_cpu, "--tokens-out", f"{out}/o.json"]),
        Command("decode", lambda out: ["decode", str(tokens), *on_cpu, "--out", f"{out}/o.png"]),
        Command("convert", lambda out: ["convert", *on_cpu, "--weights=int4", "--out", f"{out}/o.safetensors"]),
        Command("info", lambda out: ["info", *on_cpu, "--json"]),
    )


OUTPUTS = (("", "png"), ("tokens-", "json"), ("stats-", "json.stats"))


def run(command: Command, refuser: Refuser) -> Ended:
    """Runs a command with a refuser, in a folder of its own."""
    linear._onednn.cache_clear()
    log, said = Log(), io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        printed = contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO())
        with printed[0], printed[1], log.taken(), refuser.refusing():
            code, trace = call(command.arguments(Path(folder)))
        files = {path.name: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
        return Ended(code, (said.getvalue() + trace).replace(folder, "OUT"), log.text, files)


def plan(command: Command, count: int, generator: random.Random) -> list[Attempt]:
    """Attempts at `count` places, each line of the engine as likely as another."""
    refuser = Refuser()
    assert run(command, refuser).code == 0, command.name
    lines: dict[str, list[int]] = defaultdict(list)
    for at, place in enumerate(refuser.places):
        lines[place].append(at)
    chosen = generator.choices(sorted(lines), k=count)
    return [
        Attempt(command, generator.choice(lines[place]), place, generator.choice(_refusals(place))) for place in chosen
    ]


def _refusals(place: str) -> list[str]:
    """The wordings that a place can have: only PyTorch speaks as PyTorch."""
    return ["python", "system"] if place.partition(" ")[2] in PATCHED else sorted(REFUSALS)


def fault(attempt: Attempt, good: Ended) -> str:
    """What is wrong with the end of an attempt; "" if it is right. `good` is the same command without a refusal."""
    ended = run(attempt.command, Refuser(attempt.at, attempt.refusal))
    if ended.code == 0:
        return _fault_of_success(ended, good)
    if ended.code != 2:
        return f"exit code {ended.code}: {ended.said}"
    if ended.said.count("\n") != 1 or "memory" not in ended.said:
        return f"not one line about memory: {ended.said}"
    left = [name for name in ended.files if f"OUT/{name}" not in ended.said]
    return f"left behind {left}: {ended.said}" if left else ""


def _fault_of_success(ended: Ended, good: Ended) -> str:
    if "memory" not in ended.log:
        return f"fell back without a word: {ended.said}"
    if ended.files.keys() != good.files.keys():
        return f"wrote {sorted(ended.files)}, expected {sorted(good.files)}"
    changed = [name for name in good.files if not _is_same(name, ended.files[name], good.files[name])]
    return f"wrote other values: {changed}" if changed else ""


def _is_same(name: str, one: bytes, other: bytes) -> bool:
    """Whether two files hold the same but for rounding in pictures, and times in statistics."""
    if name.endswith(".png"):
        first, second = (np.asarray(Image.open(io.BytesIO(each))).astype(int) for each in (one, other))
        return first.shape == second.shape and bool(abs(first - second).max() <= 1)
    return name.endswith(".stats") or one == other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=200, help="refusals in all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp())
    try:
        ended = attempt_all(root, options.count, options.seed)
    finally:
        shutil.rmtree(root)
    for attempt, wrong in ended:
        if wrong:
            print(f"{attempt.command.name}, {attempt.refusal} at {attempt.place} ({attempt.at}): {wrong}")
    counts = Counter((attempt.command.name, "wrong" if wrong else "right") for attempt, wrong in ended)
    print("; ".join(f"{name}: {number} {how}" for (name, how), number in sorted(counts.items())))
    sys.exit(any(wrong for _, wrong in ended))


def attempt_all(root: Path, count: int, seed: int) -> list[tuple[Attempt, str]]:
    """Attempts at `count` places of all commands together, and what is wrong with their ends."""
    generator, base = random.Random(seed), Base.make(root / "base")
    (pictures := root / "pictures").mkdir()
    ended, known = [], commands(base, pictures)
    for index, command in enumerate(known):
        share = count // len(known) + (index < count % len(known))
        good = run(command, Refuser())
        ended += [(attempt, fault(attempt, good)) for attempt in plan(command, share, generator)]
    return ended


if __name__ == "__main__":
    main()
