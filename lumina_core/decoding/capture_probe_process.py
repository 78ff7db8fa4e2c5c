"""Runs capture_probe_child.py and reads what it found, however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

CHILD = Path(__file__).with_name("capture_probe_child.py")
TIMEOUT = 60.0
# Bytes of its output that are read, and characters of a reason.
MOST_BYTES, MOST_CHARACTERS = 2**16, 300
# Exit codes of Windows.
WINDOWS_CODES = {0xC0000005: "access violation", 0xC0000409: "abort", 0xC0000374: "heap corruption"}
# Ended from outside, which tells nothing about captures: by the system for want of memory, by a user.
OUTSIDE = {"SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "exit code 0xC000013A", "exit code 0x40010004"}
_AN_ERROR = re.compile(r"\w*Error\b|what\(\)|CUDA error|[Ff]atal|assert")


@dataclass(frozen=True)
class Verdict:
    """Why captures fail, "" where they work: of steps that write to buffers, and of steps that allocate memory."""

    failure: str = ""
    allocating_failure: str = ""


@dataclass(frozen=True)
class Outcome:
    """The verdict of a child. A lasting one is a fact of the machine; one to repeat lacked memory just then."""

    verdict: Verdict
    lasting: bool = False
    repeat: bool = False


def run_child(arguments: list[str]) -> Outcome:
    """Runs the child and returns what it found, or how it failed to find anything. Raises nothing."""
    if reason := _no_python():
        return Outcome(Verdict(reason))
    command = [sys.executable, str(CHILD), *arguments]
    try:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
            ended = _run(command, out, errors)
            return outcome_of(_read(out), ended, _last_error(_read(errors)))
    except (OSError, ValueError) as error:
        return Outcome(Verdict(one_line(f"the process that tries them cannot be started: {error}")))


def _no_python() -> str:
    """Why no child can be started, or "". Another program than Python would do anything with the child's path."""
    name = Path(sys.executable or "").name
    if getattr(sys, "frozen", False) or not re.match(r"(python|pypy)", name, re.IGNORECASE):
        return f"they cannot be tried, since this program is {name or 'unknown'} and not a Python that runs scripts"
    return ""


def _run(command: list[str], out: IO[bytes], errors: IO[bytes]) -> str:
    """Runs a command, with its output in files; returns how it ended. All that it started has ended then."""
    flags = getattr(subprocess, "CREATE_NO_WINDOW", 0) | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, start_new_session=True, creationflags=flags
    )
    try:
        return how_ended(process.wait(TIMEOUT))
    except subprocess.TimeoutExpired:
        return ""
    finally:
        if process.poll() is None:
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and its children."""
    if os.name == "nt":
        command, flags = ["taskkill", "/F", "/T", "/PID", str(process.pid)], getattr(subprocess, "CREATE_NO_WINDOW", 0)
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(command, capture_output=True, timeout=10, check=False, creationflags=flags)
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        process.kill()
        process.wait(10)


def how_ended(code: int) -> str:
    """An exit code in words, never ""."""
    if code < 0:
        known = {one.value: one.name for one in signal.Signals}
        return known.get(-code, f"signal {-code}")
    if code < 2**31:
        return f"exit code {code}"
    return f"exit code 0x{code:08X}" + (f" ({WINDOWS_CODES[code]})" if code in WINDOWS_CODES else "")


def outcome_of(output: str, ended: str, error: str) -> Outcome:
    """What a child found, by what it printed, how it ended ("" for the time limit) and its last error."""
    said: dict[str, Any] = {}
    for line in output.splitlines():
        with contextlib.suppress(ValueError, RecursionError):  # what a library printed
            value = json.loads(line)
            said |= value if isinstance(value, dict) else {}
    reason = one_line(str(said.get("reason") or _how_failed(ended, error)))
    finished = "reason" in said or (ended != "" and ended not in OUTSIDE)
    lasting = said.get("begun") is True and finished and not said.get("out_of_memory")
    if said.get("works") is not True:
        return Outcome(Verdict(reason), lasting, bool(said.get("out_of_memory")))
    if said.get("allocating") is True and ended == how_ended(0):
        return Outcome(Verdict(), lasting=True)
    return Outcome(Verdict("", reason), lasting)


def _how_failed(ended: str, error: str) -> str:
    if not ended:
        return f"the process that tries them did not end within {TIMEOUT:g} s" + (f" ({error})" if error else "")
    what = "printed no result" if ended == how_ended(0) else f"ended with {ended}"
    return f"the process that tries them {what}" + (f": {error}" if error else "")


def _read(file: IO[bytes]) -> str:
    """The last MOST_BYTES of a file."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - MOST_BYTES))
    return file.read().decode(errors="replace")


def _last_error(text: str) -> str:
    """The last line that names an error, else the last line; torch adds advice after the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if _AN_ERROR.search(line)), lines[-1] if lines else "")


def one_line(text: str) -> str:
    return " ".join(text.split())[:MOST_CHARACTERS]
