"""Requests of the demo, for tests to which the picture does not matter."""

from __future__ import annotations

import torch

from lumina_core.decoding.build_request import build_request
from lumina_core.decoding.request import Request
from lumina_core.decoding.settings import DecodeSettings
from lumina_core.pipeline import Lumina
from lumina_core.tokens.prompts import build_prompt

SIDE, CODES, GIVEN_ROWS = 96, 12, 6
BARE = 0  # The code of bare white ground.


def short_request(lumina: Lumina, prompt: str, pictures: int, settings: DecodeSettings) -> Request:
    """Pictures of the demo's size whose upper rows are given, so that a run is short: 72 codes of 144 are drawn."""
    given = torch.full((GIVEN_ROWS, CODES), BARE)
    return build_request(lumina, build_prompt("t2i", SIDE, SIDE, prompt), SIDE, SIDE, pictures, given, settings)
