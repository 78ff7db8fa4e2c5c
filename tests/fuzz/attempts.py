"""One command on bad or unusual input, and what may come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .place import Arguments, Place

Make = Callable[[Place], Arguments]
MIB = 2**20


@dataclass(frozen=True)
class Expected:
    """What may come of a command.

    It may end with exit 2 where `refused`, its line matching every regular expression of `words`; with exit 0 where
    `drawn`, the log then matching every one of `log`. With `reference`, what it draws is what that command draws; with
    `alike`, that share of the tokens in the upper half is.
    """

    refused: bool = False
    drawn: bool = False
    words: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    reference: Make | None = None
    alike: float | None = None


def plain(place: Place) -> Arguments:
    """The good checkpoint, drawn as usual."""
    return place.generate()


def refused(*words: str) -> Expected:
    """One line on stderr that matches these regular expressions, and nothing written."""
    return Expected(refused=True, words=words)


def drawn(*log: str) -> Expected:
    """A complete picture, of any tokens."""
    return Expected(drawn=True, log=log)


def same(*log: str, reference: Make = plain) -> Expected:
    """The tokens of another command, that of the good checkpoint where none is named."""
    return Expected(drawn=True, log=log, reference=reference)


def either(*words: str) -> Expected:
    """A complete picture of any tokens, or a refusal."""
    return Expected(refused=True, drawn=True, words=words)


def same_or_refused(*words: str, reference: Make = plain) -> Expected:
    """As `same`, or a refusal."""
    return Expected(refused=True, drawn=True, words=words, reference=reference)


def alike_or_refused(share: float, reference: Make, *words: str) -> Expected:
    """Nearly the tokens of another command in the upper half, or a refusal."""
    return Expected(True, True, words, reference=reference, alike=share)


@dataclass(frozen=True)
class Attempt:
    """`make` changes a place and gives the command; `what` says in words what is tried.

    `encoding` is that of stdout and stderr. `most_bytes` is how far the memory of the process may grow.
    """

    kind: str
    what: str
    make: Make
    expected: Expected
    encoding: str = "utf-8"
    most_bytes: int = 512 * MIB


def unchanged(arguments: Arguments, **values: object) -> Make:
    """The same command on the good files, but for these values of the config."""

    def same_command(place: Place) -> Arguments:
        place.change_config(**values)
        return arguments

    return same_command


def then_generate(change: Callable[[Place], object], *options: object) -> Make:
    """Changes the place, then draws as usual."""

    def make(place: Place) -> Arguments:
        change(place)
        return place.generate(*options)

    return make


def case(what: str, make: Make, expected: Expected, **limits: int) -> Attempt:
    """A named input whose right outcome is known."""
    return Attempt("case", what, make, expected, **limits)  # type: ignore[arg-type]


def change_case(what: str, change: Callable[[Place], object], expected: Expected) -> Attempt:
    """A named change of the checkpoint, drawn as usual."""
    return case(what, then_generate(change), expected)
