"""Parser and exit codes of `python -m lumina_core`."""

from __future__ import annotations

import argparse
import contextlib
import logging
import logging.handlers
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

from ..device import is_out_of_memory
from ..errors import InputError, LuminaError
from . import bench, convert, decode, encode, generate, info

COMMANDS = {"generate": generate, "encode": encode, "decode": decode, "convert": convert, "info": info, "bench": bench}
BAD_INPUT, INTERRUPTED = 2, 130


class _Parser(argparse.ArgumentParser):
    """Raises parse errors as InputError, so that one line is printed and no usage text."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 2 for bad input (one line on stderr says what), 130 for Ctrl-C."""
    with _deferred_warnings() as warnings:
        try:
            options = make_parser().parse_args(arguments)
            COMMANDS[options.command].run(options, warnings.flush)
        except KeyboardInterrupt:
            message, code = "cancelled; nothing was written", INTERRUPTED
        except LuminaError as error:
            message, code = " ".join(str(error).split()), BAD_INPUT
        except OSError as error:
            where = f" {error.filename}" if error.filename else ""
            message, code = f"cannot read or write{where}: {error.strerror or error}", BAD_INPUT
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            message, code = "out of memory; use a smaller picture, --batch or --window", BAD_INPUT
        else:
            return 0
        warnings.buffer.clear()
    print(f"lumina_core: {message}", file=sys.stderr)
    return code


@contextlib.contextmanager
def _deferred_warnings() -> Iterator[logging.handlers.MemoryHandler]:
    """Buffers warnings until a command has checked its input, so that bad input prints one line only."""
    stderr = logging.StreamHandler()
    stderr.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    buffer = logging.handlers.MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1, target=stderr)
    buffer.setLevel(logging.WARNING)
    logging.getLogger().addHandler(buffer)
    logging.captureWarnings(True)
    try:
        yield buffer
    finally:
        logging.captureWarnings(False)
        logging.getLogger().removeHandler(buffer)
        buffer.close()
