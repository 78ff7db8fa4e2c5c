"""Command line: python -m lumina_core generate|encode|decode|convert|info|bench."""

import contextlib
import os
import sys

from .cli.signals import Signals, say

BAD_INPUT, FAILED = 2, 1


def run(signals: Signals) -> int:
    """Runs the command of this process and returns its exit code."""
    from .cli.packages import check_packages
    from .errors import LuminaError
    from .host.limits import IMPORT_BYTES, check_address_space
    from .host.refusals import is_out_of_memory

    try:
        check_address_space(IMPORT_BYTES)
        check_packages()
        from .cli.main import main

        check_address_space()
    except LuminaError as error:
        say(" ".join(str(error).split()))
        return BAD_INPUT
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        say("out of memory while PyTorch is imported; close other programs that use the memory")
        return BAD_INPUT
    return main(signals=signals)


def run_and_leave() -> None:
    """Runs the command and ends the process. Signals end it with one line, also while it starts.

    Python's own shutdown is left out: nothing is left to do, and a signal in it would print a traceback.
    """
    signals = Signals(own_process=True)
    signals.start()
    try:
        code = run(signals)
    except SystemExit as end:  # --help
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = FAILED
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # closed, or nobody reads it
            stream.flush()
    late, message = signals.late(code)
    if late != code:
        say(message)
    os._exit(late)


if __name__ == "__main__":
    run_and_leave()
