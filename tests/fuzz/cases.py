"""Every named input with its right outcome: what public bug reports of loaders, downloads and pictures show."""

from __future__ import annotations

from . import (
    cases_commands,
    cases_config,
    cases_downloads,
    cases_layouts,
    cases_models,
    cases_pickles,
    cases_pictures,
    cases_values,
)
from .attempts import Attempt

GROUPS: dict[str, tuple[Attempt, ...]] = {
    "downloads": cases_downloads.CASES,
    "values": cases_values.CASES,
    "config and tokenizer": cases_config.CASES,
    "layouts and names": cases_layouts.CASES,
    "other models": cases_models.CASES,
    "pickles and headers": cases_pickles.CASES,
    "pictures": cases_pictures.CASES,
    "commands and tokens": cases_commands.CASES,
}
CASES: dict[str, Attempt] = {attempt.what: attempt for group in GROUPS.values() for attempt in group}
