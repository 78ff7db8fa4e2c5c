"""The command line: a parser for each command, and errors as one line on stderr."""

from .main import main

__all__ = ["main"]
