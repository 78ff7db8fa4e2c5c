"""What is drawn survives whatever ends a run: it is kept as tokens, and the last line says where."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from ..decoding.request import Request
from ..decoding.settings import DecodeResult, StepReport
from ..device import is_out_of_memory
from ..errors import InputError, LuminaError, OutOfMemory
from ..tokens.token_files import keep_tokens, lists_of
from ..tokens.vocabulary import Vocabulary
from .signals import NOTHING_WRITTEN, Cancelled, Signals

logger = logging.getLogger(__name__)

NOT_ALL = "one of the files cannot be and all are or none"
CONVERTED = "`decode` converts them to pictures"


@dataclass
class Keeper:
    """Keeps the tokens of a request's pictures when drawing, decoding or writing them ends early."""

    options: argparse.Namespace
    request: Request
    vocabulary: Vocabulary
    report: StepReport | None = field(default=None, init=False)

    @property
    def signals(self) -> Signals:
        return self.options.signals

    def draw(self, sample: Callable[[Callable[[StepReport], None]], DecodeResult]) -> DecodeResult:
        """Calls `sample` with `on_step`. Raises Cancelled and OutOfMemory that say what is kept."""
        try:
            return sample(self._on_step)
        except BaseException as error:
            if self.signals.ended(error):
                raise Cancelled(f"cancelled{self._keep_rows() or '; nothing was written'}") from None
            if isinstance(error, OutOfMemory) and (kept := self._keep_rows()):
                raise OutOfMemory(f"{error}; it ended{kept}") from None
            raise

    def write(self, codes: list[list[int]], write: Callable[[], None]) -> None:
        """Calls `write`, which decodes and writes complete pictures. What it raises says what is kept."""
        try:
            write()
        except BaseException as error:
            if not self.signals.ended(error):
                self._fail(error, codes)
            elif self.signals.outcome() == NOTHING_WRITTEN:
                raise Cancelled(f"cancelled; {self._keep(codes)}") from None
            raise  # it came when the files were in place

    def _fail(self, error: BaseException, codes: list[list[int]]) -> None:
        """Keeps the pictures of what failed, and raises it with where."""
        kept = self._keep(codes)
        if isinstance(error, OSError) and not is_out_of_memory(error):
            error = InputError(f"cannot write {self.options.out}: {error.strerror or error}")
        if isinstance(error, InputError):  # perhaps names the file that then had room for the tokens alone
            raise InputError(f"no picture is written, since {NOT_ALL}: {error}; {kept}") from None
        if isinstance(error, LuminaError):
            raise type(error)(f"{error}; {kept}") from None
        if is_out_of_memory(error):
            raise OutOfMemory(f"out of memory; {kept}") from None
        logger.error("The picture was not written; %s.", kept)  # a fault of this program keeps its traceback

    def _on_step(self, report: StepReport) -> None:
        self.report = report
        self.signals.check()

    def _keep(self, lists: list[list[int]]) -> str:
        with self.signals.held():
            try:
                path = keep_tokens(lists, self.options.out, self.options.tokens_out)
            except InputError as error:
                return f"nor can the tokens be saved ({error})"
        return f"the tokens are saved in {path}: {CONVERTED}"

    def _keep_rows(self) -> str:
        """Keeps what is drawn, if that is a row or more, and says it; else empty."""
        report, given = self.report, self.request.canvas.given_rows
        rows = 0 if report is None else report.rows
        if report is None or rows <= given:
            return ""
        lists = lists_of(report, self.vocabulary)
        if rows == self.request.grid_h:
            return f"; {self._keep(lists)}"
        what = f" after {rows} of {self.request.grid_h} rows"
        with self.signals.held():
            try:
                path = keep_tokens(lists, self.options.out)
            except InputError as error:
                return f"{what}, which cannot be saved ({error})"
        return f"{what}; their tokens are saved in {path}: {CONVERTED}, and --condition {path} draws the rest"
