"""Draws the codes of a request, with a bar on a terminal."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..decoding.request import Request
from ..decoding.settings import DecodeResult, StepReport
from ..pipeline import Lumina
from .common import progress_bar


def with_condition(lumina: Lumina, request: Request, pixels: torch.Tensor | None) -> Request:
    """The request with the codes of its condition, pixels [1,3,h,w]."""
    return request if pixels is None else request.with_given(lumina.encode(pixels))


def sample(lumina: Lumina, request: Request, on_step: Callable[[StepReport], object], title: str = "") -> DecodeResult:
    """Draws the codes."""
    with progress_bar(total=request.codes_to_draw, unit="tokens", title=title) as bar:

        def show(report: StepReport) -> None:
            on_step(report)
            bar.update(sum(report.accepted), report.warm_up_seconds)

        result = lumina.sample(request, show)
        bar.finish(result.seconds, result.warm_up_seconds)
        return result
