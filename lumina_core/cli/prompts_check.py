"""Checks every line of a file of prompts before the model is loaded, and finds the pictures that are already drawn."""

from __future__ import annotations

import argparse
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..decoding.request import Request
from ..errors import InputError, LuminaError, OutOfMemory
from ..files.fingerprint import file_hash
from ..files.output_files import check_picture_suffix, numbered_paths
from ..pictures.metadata import PictureSettings, read_picture_file
from ..quant.weights import AUTO
from ..tokens.task_inputs import warn_of_ignored
from .asked import Asked, kept_lists
from .planned import PlannedModel
from .prompts_file import Line, PromptsFile

MOST_NAME_BYTES = 255
MOST_NUMBERS = 10


@dataclass(frozen=True)
class Task:
    """A checked line: its pictures, and which of them are there. `unproven` of those carry no settings."""

    line: Line
    asked: Asked
    request: Request
    paths: tuple[Path, ...]
    settings: tuple[PictureSettings, ...]
    is_there: tuple[bool, ...]
    unproven: int

    @property
    def is_done(self) -> bool:
        return all(self.is_there)


@dataclass(frozen=True)
class Fault:
    """A line that cannot be drawn."""

    line: Line
    error: LuminaError


@dataclass
class Checker:
    """Checks lines one after the other; each picture has a name of its own."""

    file: PromptsFile
    options: argparse.Namespace
    model: PlannedModel
    _names: dict[str, Line] = field(default_factory=dict)
    _conditions: set[tuple[object, ...]] = field(default_factory=set)
    _hashes: dict[Path, str] = field(default_factory=dict)

    def check_all(self) -> tuple[list[Task], list[Fault]]:
        """All lines. Raises CheckpointError and InputError for what is no fault of a line."""
        tasks, faults = [], []
        for line in self.file.lines:
            self.options.signals.check()
            try:
                tasks.append(self._check(line))
            except (InputError, OutOfMemory) as error:
                faults.append(Fault(line, error))
        return tasks, faults

    def _check(self, line: Line) -> Task:
        options = self.file.options(line, self.options)
        kept = kept_lists(options)
        check_picture_suffix(options.out)
        paths = numbered_paths(options.out, options.batch)
        asked = Asked.of(options, kept)
        request = self.model.fit(asked.request(self.model.checkpoint))
        self._check_condition(asked)
        settings = self.model.settings(options, request, self._hash(options.condition), self._hash(options.mask))
        found = [self._find(path, one) for path, one in zip(paths, settings, strict=True)]
        self._take_names(line, paths)
        warn_of_ignored(options.task, options.map, options.object)
        there = tuple(one is not None for one in found)
        return Task(line, asked, request, tuple(paths), tuple(settings), there, found.count(False))

    def _check_condition(self, asked: Asked) -> None:
        """Prepares a condition that no earlier line has: what cannot be read is found now."""
        options = asked.options
        use = (options.condition, options.width, options.height, options.given_height, asked.is_whole)
        if use not in self._conditions:
            asked.pixels()
            self._conditions.add(use)

    def _hash(self, condition: Path | None) -> str | None:
        """The `file_hash` of a condition or mask, which many lines may have."""
        if condition is not None and condition not in self._hashes:
            self._hashes[condition] = file_hash(condition)
        return None if condition is None else self._hashes[condition]

    def _take_names(self, line: Line, paths: Sequence[Path]) -> None:
        """Raises InputError for a name that is too long or that an earlier line has, on any file system."""
        keys = [unicodedata.normalize("NFC", path.name).casefold() for path in paths]
        for path, key in zip(paths, keys, strict=True):
            if len(os.fsencode(path.name)) > MOST_NAME_BYTES:
                raise InputError(f"the name {path.name[:40]}… is too long; expected at most {MOST_NAME_BYTES} bytes")
            if key in self._names:
                raise InputError(f"it would write {path.name}, as line {self._names[key].number} does")
        self._names.update(dict.fromkeys(keys, line))

    def _find(self, path: Path, settings: PictureSettings) -> bool | None:
        """Whether a picture is there and says so (True), is there by its size (False), or is not there (None).

        Raises InputError for another file of that name: it is neither overwritten nor taken for the picture.
        """
        if not os.path.lexists(path):
            return None
        found = read_picture_file(path)
        if found.values is not None:
            difference = settings.difference(found.values, self._chosen_by_auto)
        elif not self.options.no_metadata and path.suffix.lower() == ".png":
            difference = "it does not say its settings"
        else:
            difference = None if found.size == settings.size else f"its size is {found.size[0]}x{found.size[1]}"
        if difference is not None:
            raise InputError(
                f"{path} is there and is not this picture: {difference}; remove it, or choose another folder or name"
            )
        return found.values is not None

    @property
    def _chosen_by_auto(self) -> list[str]:
        """Settings that the user leaves to auto: what an earlier run chose is as good."""
        return [name for name in ("weights", "kv") if getattr(self.options, name) == AUTO]


def fault_text(file: PromptsFile, faults: Sequence[Fault]) -> str:
    """The first fault, and the numbers of the other lines."""
    first, *others = faults
    text = f"line {first.line.number} of {file.path}: {first.error}"
    if not others:
        return text
    shown = ", ".join(str(fault.line.number) for fault in others[:MOST_NUMBERS])
    more = f" and {len(others) - MOST_NUMBERS} more" if len(others) > MOST_NUMBERS else ""
    return f"{text}; broken too: line{'s' if len(others) > 1 else ''} {shown}{more}"
