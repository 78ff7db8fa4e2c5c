"""A measurement in its own process, so that earlier measurements do not count."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any


def in_own_process(module: str, case: Any) -> dict[str, Any]:
    """What `python -m module CASE` prints as JSON; CASE is the dataclass `case` as JSON."""
    command = [sys.executable, "-m", module, json.dumps(asdict(case))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure_named_case(case: type, measure: Callable[[Any], Any]) -> bool:
    """Measures the case on the command line, if there is one, and prints the dataclass that `measure` returns."""
    if len(sys.argv) < 2 or not sys.argv[1].startswith("{"):
        return False
    print(json.dumps(asdict(measure(case(**json.loads(sys.argv[1]))))))
    return True
