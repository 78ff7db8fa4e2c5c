"""Runs commands under limits on their address space or data, and judges how they end.

    python -m tests.fuzz.memory_limits [--steps 24] [--kind AS|DATA] [--commands generate encode decode convert info]

Each must write what it writes without a limit, or end with exit code 2, one line about memory and nothing left behind.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).parents[2]
MIB = 2**20
# From less than Python's own libraries take to more than any command does, in MiB.
LOWEST, HIGHEST = 64, 1600
KINDS: Mapping[str, int] = MappingProxyType({"AS": resource.RLIMIT_AS, "DATA": resource.RLIMIT_DATA})
_DRAW = ("--checkpoint=demo", "--device=cpu", "--prompt=a red circle", "--width=96", "--height=96", "--out=o.png")
COMMANDS: Mapping[str, Callable[[Path], tuple[str, ...]]] = MappingProxyType(
    {
        "generate": lambda _: ("generate", *_DRAW, "--tokens-out=o.json"),
        "encode": lambda made: ("encode", str(made / "o.png"), "--device=cpu", "--tokens-out=t.json"),
        "decode": lambda made: ("decode", str(made / "o.json"), "--device=cpu", "--out=d.png"),
        "convert": lambda _: ("convert", "--checkpoint=demo", "--weights=int4", "--device=cpu", "--out=c.safetensors"),
        "info": lambda _: ("info", "--device=cpu"),
    }
)


@dataclass(frozen=True)
class Ended:
    code: int
    said: str
    files: Mapping[str, bytes]

    def fault(self, good: Ended) -> str:
        """What is wrong; "" where it succeeded as `good` did, or was refused in one line and left nothing."""
        if self.code == 0:
            return "" if self.files.keys() == good.files.keys() else f"wrote {sorted(self.files)}"
        if self.code != 2:
            return f"exit code {self.code}: {self.said[-300:]}"
        is_clear = self.said.count("\n") == 1 and ("memory" in self.said or "would take" in self.said)
        return ("" if is_clear else f"said {self.said[-300:]}") or (f"left {sorted(self.files)}" if self.files else "")


def run(arguments: tuple[str, ...], kind: str = "AS", limit: int | None = None) -> Ended:
    """Runs a command in an empty folder and a process of its own, with a limit in bytes."""

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(KINDS[kind], (limit, limit))

    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "lumina_core", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            preexec_fn=limited,
            check=False,
        )
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    return Ended(done.returncode, done.stderr, files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=24, help="limits for each command")
    parser.add_argument("--between", type=int, nargs=2, default=(LOWEST, HIGHEST), metavar="MIB")
    parser.add_argument("--kind", choices=tuple(KINDS), default="AS")
    parser.add_argument("--commands", nargs="+", choices=tuple(COMMANDS), default=list(COMMANDS))
    options = parser.parse_args()
    low, high = (MIB * bound for bound in options.between)
    limits = [low + index * (high - low) // (options.steps - 1) for index in range(options.steps)]
    with tempfile.TemporaryDirectory() as made:
        for name, content in run(COMMANDS["generate"](Path())).files.items():
            (Path(made) / name).write_bytes(content)
        counts = Counter[str]()
        for name in options.commands:
            good = run(arguments := COMMANDS[name](Path(made)))
            for limit in limits:
                ended = run(arguments, options.kind, limit)
                if wrong := ended.fault(good):
                    print(f"{name} within {limit // MIB} MiB: {wrong}", flush=True)
                counts[f"{name} {'wrong' if wrong else 'drawn' if ended.code == 0 else 'refused'}"] += 1
    print("; ".join(f"{what}: {count}" for what, count in sorted(counts.items())))
    sys.exit(any("wrong" in what for what in counts))


if __name__ == "__main__":
    main()
