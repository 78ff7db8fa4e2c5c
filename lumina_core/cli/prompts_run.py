"""`generate --prompts`: one load of the model, a picture for each line of a file; resumable, and shared by torchrun."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..checkpoint.find import open_checkpoint
from ..errors import InputError, LuminaError
from ..files.output_files import PICTURE_SUFFIXES, OutputFiles, check_output, explain_write_errors
from ..pictures.metadata import png_texts
from ..pipeline import Drawing, Lumina
from ..timing.log_bar import is_terminal
from .common import check_batch
from .draw import sample, with_condition
from .planned import PlannedModel
from .prompts_check import Checker, Fault, Task, fault_text
from .prompts_file import PromptsFile, read_prompts
from .share import Share
from .signals import NOTHING_WRITTEN, Cancelled, say

logger = logging.getLogger(__name__)


def run_prompts(options: argparse.Namespace, on_input_checked: Callable[[], None]) -> None:
    """Checks every line, then loads the model and draws this process's share of what is not there yet."""
    share = Share.of_environment(os.environ)
    check_batch(options.batch)
    _check_folder(options.out)
    file = read_prompts(options.prompts)
    device = share.device(options.device)
    model = PlannedModel.of(options, open_checkpoint(options.checkpoint), device)
    tasks, faults = Checker(file, options, model).check_all()
    _tell_faults(file, tasks, faults, options.skip_bad, share)
    own = [task for task in tasks if share.takes(task.line.index)]
    left = [task for task in own if not task.is_done]
    if left:
        with explain_write_errors(options.out):
            options.out.mkdir(exist_ok=True)
        options.signals.watch([options.out])
        _draw_all(options, model, share, own, left, on_input_checked)
    else:
        on_input_checked()
        _say_done(share, own, left, options.out)


def _check_folder(folder: Path) -> None:
    """Raises InputError for what is no folder, and cannot become one or be written to."""
    if folder.is_dir():
        check_output(folder / ".lumina")
        return
    if os.path.lexists(folder) or folder.suffix.lower() in PICTURE_SUFFIXES:
        raise InputError(f"{folder} is no folder; with --prompts, --out is the folder for the pictures")
    check_output(folder)


def _tell_faults(
    file: PromptsFile, tasks: Sequence[Task], faults: Sequence[Fault], skip_bad: bool, share: Share
) -> None:
    """Raises InputError for broken lines; with `skip_bad` warns of each, in one process of several."""
    if not faults:
        return
    if not skip_bad:
        raise InputError(f"{fault_text(file, faults)}; nothing was drawn (--skip-bad leaves such lines out)")
    if not tasks:
        raise InputError(f"{fault_text(file, faults)}; no line is left to draw")
    for fault in faults if share.rank == 0 else ():
        logger.warning("line %d of %s is skipped: %s", fault.line.number, file.path, fault.error)


def _draw_all(
    options: argparse.Namespace,
    model: PlannedModel,
    share: Share,
    own: Sequence[Task],
    left: Sequence[Task],
    on_input_checked: Callable[[], None],
) -> None:
    """Loads the model and draws. What is raised says at which line, and how many are written."""
    place = str(share)
    try:
        lumina = model.load()
        on_input_checked()
        _say_done(share, own, left, options.out)
        for number, task in enumerate(left, 1):
            place = f"{share}line {task.line.number}: "
            _draw(options, lumina, task, _title(share, number, len(left), task))
    except BaseException as error:
        written = sum(all(map(os.path.lexists, task.paths)) for task in left)
        outcome = f"{written} of {len(left)} prompts were drawn; the same command draws the rest"
        if options.signals.ended(error):
            raise Cancelled(f"{share}cancelled after {outcome}" if written else f"{share}{NOTHING_WRITTEN}") from None
        if isinstance(error, LuminaError):
            raise type(error)(f"{place}{error}; {outcome}") from error
        raise


def _draw(options: argparse.Namespace, lumina: Lumina, task: Task, title: str) -> None:
    """Draws one line and writes those of its pictures that are not there."""
    pixels, signals = task.asked.pixels(), options.signals
    request = with_condition(lumina, task.request, pixels)
    result = sample(lumina, request, lambda _: signals.check(), title)
    drawing = Drawing(lumina, result, request.mask, pixels)
    with OutputFiles(overwrite=False) as files:
        for image, path, settings, is_there in zip(
            drawing.images, task.paths, task.settings, task.is_there, strict=True
        ):
            if not is_there:
                files.write_picture(image, path, None if options.no_metadata else png_texts(settings))
        signals.check()


def _title(share: Share, number: int, total: int, task: Task) -> str:
    """Which prompt of how many: the title of the bar on a terminal, else a line of its own."""
    title = f"{share}prompt {number} of {total}, line {task.line.number}"
    if not is_terminal(sys.stderr):
        say(f"{title}: {task.asked.options.out}")
    return title


def _say_done(share: Share, own: Sequence[Task], left: Sequence[Task], folder: Path) -> None:
    done = len(own) - len(left)
    if not done:
        return
    unproven = sum(task.unproven for task in own)
    sizes = f" ({unproven} of the pictures do not say their settings: only sizes were compared)" if unproven else ""
    say(f"{share}{done} of {len(own)} prompts are drawn already in {folder} and are not drawn again{sizes}")
