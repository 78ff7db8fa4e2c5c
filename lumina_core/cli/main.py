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
    """A parser whose errors are ours: one line, no usage in front."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help that tells a default where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_default = action.default is not None and action.default is not False
        return super()._get_help_string(action) if has_default else action.help


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(prog="python -m lumina_core", description="Lumina-mGPT 2.0: pictures drawn as tokens.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.HELP, description=command.HELP, formatter_class=_Formatter)
        command.add_arguments(sub)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command: 0, or 2 with one line on stderr saying what is wrong with the input, or 130 on Ctrl-C."""
    with _held_warnings() as warnings:
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
            message, code = "out of memory; ask for a smaller picture, --batch or --window", BAD_INPUT
        else:
            return 0
        warnings.buffer.clear()
    print(f"lumina_core: {message}", file=sys.stderr)
    return code


@contextlib.contextmanager
def _held_warnings() -> Iterator[logging.handlers.MemoryHandler]:
    """Warnings are shown once the input is known to be good, so that an error stays the only line."""
    shown = logging.StreamHandler()
    shown.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    held = logging.handlers.MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1, target=shown)
    held.setLevel(logging.WARNING)
    logging.getLogger().addHandler(held)
    logging.captureWarnings(True)
    try:
        yield held
    finally:
        logging.captureWarnings(False)
        logging.getLogger().removeHandler(held)
        held.close()
