"""A measurement in a process of its own, so that nothing measured before it counts."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from typing import Any


def in_own_process(module: str, case: Any) -> dict[str, Any]:
    """What `python -m module CASE` prints as JSON, CASE being a dataclass as JSON."""
    command = [sys.executable, "-m", module, json.dumps(asdict(case))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found
