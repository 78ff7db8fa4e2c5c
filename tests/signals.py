"""Commands that a signal ends at a random moment: `python -m tests.signals --trials 150` prints how each one ended."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGKILL")
COMMANDS = ("generate", "convert", "encode", "decode")
# Python may need this long, on a busy machine, until it runs the first line of the program.
STARTING_SECONDS = 0.3
# The system takes this long, on a busy machine, to remove a process that has ended by itself.
LEAVING_SECONDS = 0.5
SIDE = 96


@dataclass(frozen=True)
class Ending:
    """How a command ended: exit code, lines on stderr, and names in its folder.

    `at` is the moment of its signal in seconds, or of its end without one; `after` is how much longer it ran.
    """

    code: int
    lines: tuple[str, ...]
    left: tuple[str, ...]
    at: float
    after: float

    def came_too_early(self, number: int) -> bool:
        """Whether the signal ended Python itself, before any line of the program ran."""
        by_python = self.code in (-number, 1) and not any("lumina_core" in line for line in self.lines)
        return number != signal.SIGKILL and self.at < STARTING_SECONDS and by_python

    def fault(self, number: int, outputs: Sequence[str]) -> str:
        """What is wrong with it, or nothing."""
        if self.code == 0:
            if self.after > LEAVING_SECONDS:
                return "ignored the signal"
            return "" if not self.lines and set(self.left) == set(outputs) else "succeeded otherwise than it should"
        if self.came_too_early(number):
            return "left something" if self.left else ""
        if number == signal.SIGKILL:
            return self._fault_of_killed(number, outputs)
        if self.code != 128 + number:
            return f"exit code {self.code}"
        if len(self.lines) != 1:
            return f"{len(self.lines)} lines on stderr"
        return self._fault_of_files(outputs)

    def _fault_of_killed(self, number: int, outputs: Sequence[str]) -> str:
        if self.code != -number:
            return f"exit code {self.code}"
        return "" if not self.left or set(self.left) == set(outputs) else "left something"

    def _fault_of_files(self, outputs: Sequence[str]) -> str:
        """Whether the files are those that the line names."""
        if "nothing was written" in self.lines[0]:
            return "left something" if self.left else ""
        if "are saved in" in self.lines[0]:
            return "" if [name.endswith(".tokens.json") for name in self.left] == [True] else "left something else"
        return "" if "was written" in self.lines[0] and set(self.left) == set(outputs) else "says something else"


class Trials:
    """Runs commands on the demo in folders of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.picture, self.tokens = folder / "given.png", folder / "given.json"
        Image.effect_noise((SIDE, SIDE), 90).convert("RGB").save(self.picture)
        subprocess.run(self.command("encode", folder), cwd=ROOT, check=True)
        (folder / "tokens.json").rename(self.tokens)

    def command(self, name: str, folder: Path) -> list[str]:
        options = {
            "generate": [
                *("--prompt", "a red circle", "--width", SIDE, "--height", SIDE, "--weights", "fp32"),
                *("--decoder", "ar", "--out", folder / "picture.png", "--stats-out", folder / "stats.json"),
            ],
            "convert": ["--weights", "int4", "--out", folder / "converted.safetensors"],
            "encode": [self.picture, "--tokens-out", folder / "tokens.json"],
            "decode": [self.tokens, "--out", folder / "picture.png"],
        }[name]
        return [
            sys.executable,
            "-m",
            "lumina_core",
            name,
            "--checkpoint",
            "demo",
            "--device",
            "cpu",
            *map(str, options),
        ]

    def outputs(self, name: str) -> tuple[str, ...]:
        """The files that a command writes."""
        return {
            "generate": ("picture.png", "stats.json"),
            "convert": ("converted.safetensors",),
            "encode": ("tokens.json",),
            "decode": ("picture.png",),
        }[name]

    def run(self, name: str, number: int | None = None, at: float = 0.0) -> Ending:
        """Runs a command, which gets a signal after `at` seconds."""
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            start = time.monotonic()
            process = subprocess.Popen(
                self.command(name, Path(place)),
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**one_thread(), "TMPDIR": place},
                preexec_fn=heed_signals,  # noqa: PLW1509  it only sets handlers
            )
            if number is not None:
                time.sleep(max(0.0, at - (time.monotonic() - start)))
                process.send_signal(number)
            _, said = process.communicate(timeout=120)
            end = time.monotonic() - start
            left = tuple(sorted(path.name for path in Path(place).rglob("*")))
            at = at if number else end
            return Ending(process.returncode, tuple(said.splitlines()), left, at, end - at)


def heed_signals() -> None:
    """In a child: undoes that a background job of a shell ignores Ctrl-C, and nohup SIGHUP."""
    for name in SIGNALS[:3]:
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def one_thread() -> dict[str, str]:
    """The environment, with one thread for each command: many run at once on a test machine."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def plan(trials: int, seconds: dict[str, float], seed: int) -> list[tuple[str, str, float]]:
    """Command, signal and moment of each trial; every combination in turn."""
    dice = random.Random(seed)
    pairs = [(command, name) for command in COMMANDS for name in SIGNALS]
    return [(*pairs[k % len(pairs)], dice.uniform(0, 1.05 * seconds[pairs[k % len(pairs)][0]])) for k in range(trials)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    faults, endings = list[str](), Counter[tuple[str, str, str]]()
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(Path(folder))
        seconds = {command: trials.run(command).at for command in COMMANDS}
        print("seconds without a signal:", json.dumps(seconds))
        for command, name, at in plan(options.trials, seconds, options.seed):
            ending = trials.run(command, number := int(getattr(signal, name)), at)
            left = (
                "tokens" if any(".tokens" in file for file in ending.left) else "outputs" if ending.left else "nothing"
            )
            how = f"{ending.code:4}  {len(ending.lines)} lines  {left}"
            endings[command, name, "before the program" if ending.came_too_early(number) else how] += 1
            if fault := ending.fault(number, trials.outputs(command)):
                faults.append(f"{command} {name} at {at:.3f} s: {fault}: {ending}")
    for (command, name, how), count in sorted(endings.items()):
        print(f"{command:9} {name:8} {how:24} {count:4}")
    print(f"{options.trials} trials, {len(faults)} faults")
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
