"""Parser and exit codes of `python -m lumina_core`."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import logging.handlers
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from ..device import is_out_of_memory
from ..errors import InputError, LuminaError, OutOfMemory
from . import bench, convert, decode, encode, generate, info
from .common import out_of_memory_message
from .signals import Cancelled, Signals, say

COMMANDS = {"generate": generate, "encode": encode, "decode": decode, "convert": convert, "info": info, "bench": bench}
BAD_INPUT = 2
PATHS = ("checkpoint", "movqgan", "condition", "prompts", "out", "tokens_out", "stats_out", "image", "tokens")


class _Parser(argparse.ArgumentParser):
    """Raises parse errors as InputError, so that one line is printed and no usage text."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


class _Once(logging.Filter):
    """Lets each text through once: a file of prompts may give every line the same warning."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        is_new = text not in self._seen
        self._seen.add(text)
        return is_new


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default to the help of options that have one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_default = action.default is not None and action.default is not False
        return super()._get_help_string(action) if has_default else action.help


def make_parser() -> argparse.ArgumentParser:
    """The argument parser with all commands."""
    parser = _Parser(prog="python -m lumina_core", description="Draws pictures as tokens with Lumina-mGPT 2.0.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.HELP, description=command.HELP, formatter_class=_Formatter)
        command.add_arguments(sub)
    return parser


def main(arguments: Sequence[str] | None = None, signals: Signals | None = None) -> int:
    """Runs one command and returns its exit code. `signals` are those of the process, if it ends with the command.

    0; 2 for bad input (one line on stderr says what); 130, 143 or 129 for Ctrl-C, SIGTERM and SIGHUP.
    """
    with _printable(), _deferred_warnings() as warnings:
        code, message = _run(arguments, signals or Signals(), warnings.flush)
        if code:
            warnings.buffer.clear()
            say(message)
    return code


def _run(arguments: Sequence[str] | None, signals: Signals, on_input_checked: Callable[[], None]) -> tuple[int, str]:
    """Exit code and message of a command that a signal may end."""
    try:
        with signals:
            outcome = _finish(arguments, signals, on_input_checked)
            signals.hold()
        return signals.late(*outcome)
    except KeyboardInterrupt as interrupt:
        signals.hold()
        return signals.exit_code, str(interrupt) or signals.outcome()


def _finish(arguments: Sequence[str] | None, signals: Signals, on_input_checked: Callable[[], None]) -> tuple[int, str]:
    """Exit code and message of a command that runs to its end."""
    options = argparse.Namespace(signals=signals, command=None)
    try:
        signals.check()
        make_parser().parse_args(arguments, options)
        _check_paths(options)
        COMMANDS[options.command].run(options, on_input_checked)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # nobody reads what is printed; the files, if any, are written
        pass
    except Exception as error:
        if signals.ended(error):
            raise Cancelled from None
        if (message := _explain(error, options.command)) is None:
            raise
        return BAD_INPUT, message
    return 0, ""


def _explain(error: Exception, command: str | None) -> str | None:
    """One line for a fault of the input or the machine; None for a fault of this program."""
    if is_out_of_memory(error) and not isinstance(error, OutOfMemory):
        return out_of_memory_message(command)
    if isinstance(error, LuminaError):
        return _one_line(str(error))
    if isinstance(error, OSError):
        where = f" {error.filename}" if error.filename else ""
        return _one_line(f"cannot read or write{where}: {error.strerror or error}")
    if isinstance(error, RecursionError):
        return "the input is nested too deeply; expected plain files and text"
    return None


def _one_line(text: str) -> str:
    """A text without line breaks, and with escapes for letters that would control the terminal."""
    line = " ".join(text.split())
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in line)


def _check_paths(options: argparse.Namespace) -> None:
    """Raises InputError for a path that no system can open."""
    for name, value in vars(options).items():
        if name in PATHS and value is not None and (reason := _why_no_path(value)):
            raise InputError(
                f"{name} is {str(value)!r}, which no path can be: it has {reason}; expected a file or folder"
            )


def _why_no_path(value: str | os.PathLike[str]) -> str | None:
    """What a path has that no system can open; None for a path that is one."""
    try:
        return "a null character" if b"\0" in os.fsencode(value) else None
    except UnicodeError:
        return "characters that no name of a file can have here"


@contextlib.contextmanager
def _printable() -> Iterator[None]:
    """Prints what the console cannot show as escapes, instead of failing."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    earlier = [stream.errors for stream in streams]
    for stream in streams:
        with contextlib.suppress(OSError, ValueError):  # closed
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in zip(streams, earlier, strict=True):
            with contextlib.suppress(OSError, ValueError):  # a closed or broken pipe
                stream.reconfigure(errors=errors)


@contextlib.contextmanager
def _deferred_warnings() -> Iterator[logging.handlers.MemoryHandler]:
    """Buffers warnings until a command has checked its input, so that bad input prints one line only."""
    stderr = logging.StreamHandler()
    stderr.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    buffer = logging.handlers.MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1, target=stderr)
    buffer.setLevel(logging.WARNING)
    buffer.addFilter(_Once())
    logging.getLogger().addHandler(buffer)
    logging.captureWarnings(True)
    try:
        yield buffer
    finally:
        logging.captureWarnings(False)
        logging.getLogger().removeHandler(buffer)
        buffer.close()
