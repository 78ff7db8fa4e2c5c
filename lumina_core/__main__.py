"""Command line: python -m lumina_core generate|encode|decode|convert|info|bench."""

from __future__ import annotations

import os
import signal
import sys

# The first thing that runs imports nothing that takes time: until it has run, Ctrl-C prints a traceback.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .cli.signals import Signals

BAD_INPUT, FAILED = 2, 1


def end_at_once(number: int, _: object) -> None:
    """Ends the process by a signal that comes before there is anything to clean up."""
    try:
        os.write(2, b"lumina_core: cancelled; nothing was written\n")
    finally:
        os._exit(128 + number)


def open_standard_files() -> None:
    """Opens nothing in the place of standard input, output and errors that are closed, as under cron.

    A file that is opened would take their numbers, and what a library prints on its errors would go into that file.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:  # the lowest number that is free
        pass
    os.close(number)


def run() -> int:
    """Runs the command of this process and returns its exit code, or that of a signal."""
    from .cli.signals import Signals, flush, say

    signals = Signals(own_process=True)
    try:
        code = run_command(signals, say)
    except SystemExit as end:  # --help
        code = end.code if isinstance(end.code, int) else 0
    flush()
    late, message = signals.late(code)
    if late != code:
        say(message)
    return late


def run_command(signals: Signals, say: Callable[[str], None]) -> int:
    """Runs the command, if everything that it needs is there, and returns its exit code."""
    from .cli.packages import check_packages
    from .errors import LuminaError
    from .host.limits import check_process_limits
    from .host.refusals import is_out_of_memory

    try:
        check_process_limits(is_imported=False)
        check_packages()
        from .cli.main import main

        check_process_limits(is_imported=True)
    except LuminaError as error:
        say(" ".join(str(error).split()))
        return BAD_INPUT
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        say("out of memory while PyTorch is imported; close other programs that use the memory")
        return BAD_INPUT
    return main(signals=signals)


if __name__ == "__main__":
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) not in (None, signal.SIG_IGN):
            signal.signal(getattr(signal, name), end_at_once)
    try:
        open_standard_files()
        code = run()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = FAILED
    os._exit(code)  # in Python's own shutdown, where nothing is left to do, a signal would print a traceback
