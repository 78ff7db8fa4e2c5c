"""Pictures that were not finished: what is drawn of them is kept in ComfyUI's output folder, to be continued."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor

from ..lumina_core.decoding.request import Request
from ..lumina_core.decoding.settings import StepReport
from ..lumina_core.errors import InputError
from ..lumina_core.pictures.sizes import CODE_PIXELS
from ..lumina_core.tokens.token_files import keep_tokens, lists_of, read_token_lists, rows_to_continue
from ..lumina_core.tokens.vocabulary import BegunPicture, Vocabulary
from . import comfy_adapter as comfy_ui
from . import folders

logger = logging.getLogger(__name__)

NONE = "none"


@contextlib.contextmanager
def kept_on_failure(
    request: Request, vocabulary: Vocabulary, report: Callable[[], StepReport | None]
) -> Iterator[None]:
    """Keeps what is drawn when the body raises, a cancel by the user included. The exception passes through.

    `report` returns the last report, None before the first. Nothing is kept without a complete new row; of a picture
    with a mask only a whole one, since Continue Picture would draw what the mask gives further down.
    """
    try:
        yield
    except BaseException:
        last, least = report(), request.canvas.given_rows + 1 if request.mask is None else request.grid_h
        if last is not None and last.rows >= least:
            grid_h, grid_w = last.codes.shape[1:]
            name = f"{CODE_PIXELS * grid_w}x{CODE_PIXELS * grid_h}_seed_{request.settings.seed}"
            _keep(lists_of(last, vocabulary), name, f"{last.rows} of {grid_h} rows")
        raise


def keep_codes(codes: Tensor, vocabulary: Vocabulary) -> None:
    """Keeps whole pictures [B,h,w] that could not be decoded."""
    grid_h, grid_w = codes.shape[1:]
    name = f"{CODE_PIXELS * grid_w}x{CODE_PIXELS * grid_h}_drawn"
    _keep([vocabulary.picture_tokens(one) for one in codes], name, f"{grid_h} of {grid_h} rows")


def read_kept(path: Path, vocabulary: Vocabulary) -> BegunPicture:
    """The rows of the pictures in a kept file: codes [B,rows,w]. The last row of a whole picture is left to be drawn.

    Raises InputError if the file is damaged, of another model, or has no complete row.
    """
    begun = rows_to_continue(read_token_lists(path), vocabulary, path.name)
    return BegunPicture(begun.codes[:, : begun.grid_h - 1], begun.grid_h, begun.grid_w)


def kept_path(name: str) -> Path:
    """The path of a kept file in the list. Raises InputError when it does not exist (any more)."""
    path = folders.kept_paths().get(name)
    if path is None:
        raise InputError(f"the kept picture {name!r} is not in {folders.kept_folder()}; choose another, or {NONE!r}")
    return path


def _keep(lists: list[list[int]], name: str, drawn: str) -> None:
    folder = folders.kept_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = keep_tokens(lists, folder / f"{name}.png")
    except Exception as error:  # must not hide why the run ended
        logger.warning("%s are drawn and could not be kept: %s", drawn, error)
        return
    text = f"{drawn} are drawn and kept in {path}"
    logger.warning("%s; Continue Picture draws the rest, `python -m lumina_core decode` shows them", text)
    comfy_ui.show_text(text)
