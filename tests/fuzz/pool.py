"""Worker processes that share a list of inputs. One that hangs or dies is replaced, and its input is told."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .process import LIMIT_WAITING
from .run import SLOW, TRACEBACK, Outcome

ROOT = Path(__file__).parents[2]
# Beyond the limit of an input, after which a worker that does not answer is killed.
GRACE_SECONDS = 40.0
Named = dict[str, Any]
Ended = tuple[Named, Outcome]
OnOutcome = Callable[[Named, Outcome], object]


class Pool:
    """Context manager; `run` gives inputs with their outcomes, in the order of the inputs."""

    def __init__(self, workers: int = 2):
        self._workers = [_Worker() for _ in range(workers)]

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.stop()

    def run(self, inputs: Sequence[Named], on_outcome: OnOutcome = lambda named, outcome: None) -> list[Ended]:
        """Ctrl-C ends it after the inputs in progress."""
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(len(inputs)):
            waiting.put(number)
        outcomes: dict[int, Outcome] = {}

        def work(worker: _Worker) -> None:
            while True:
                try:
                    number = waiting.get_nowait()
                except queue.Empty:
                    return
                outcomes[number] = worker.run(inputs[number])
                on_outcome(inputs[number], outcomes[number])

        threads = [threading.Thread(target=work, args=(worker,)) for worker in self._workers]
        for thread in threads:
            thread.start()
        try:
            _join(threads)
        except KeyboardInterrupt:
            with contextlib.suppress(queue.Empty):
                while True:
                    waiting.get_nowait()
            _join(threads)
        return [(inputs[number], outcomes[number]) for number in sorted(outcomes)]


def _join(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.join()


class _Worker:
    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(self, named: Named) -> Outcome:
        process = self._process = self._process or _start()
        assert process.stdin and process.stdout
        killed = threading.Event()

        def kill() -> None:
            killed.set()
            process.kill()

        timer = threading.Timer(LIMIT_WAITING + GRACE_SECONDS, kill)
        timer.start()
        try:
            process.stdin.write(json.dumps(named) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        if line:
            return Outcome(**json.loads(line))
        self._process = None
        what = named.get("name") or f"{named['index']} of seed {named['seed']}"
        if killed.is_set():
            return Outcome(named["kind"], what, SLOW, "the process did not answer and was killed")
        return Outcome(named["kind"], what, TRACEBACK, f"the process died with status {process.wait()}")

    def stop(self) -> None:
        if self._process is None:
            return
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()


def _start() -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz.worker"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,  # a Ctrl-C is for the pool alone
    )
