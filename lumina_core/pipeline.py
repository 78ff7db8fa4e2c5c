"""From a request to codes: the prompt's ids, the canvas, the checks, the drawing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .advice import Budget, advice
from .checkpoint.config import TransformerConfig
from .decoding.loop import Prefix, check_window, decode
from .decoding.request import Request
from .decoding.settings import DecodeResult, DecodeSettings, StepReport
from .device import explain_out_of_memory
from .errors import InputError
from .model.transformer import Transformer
from .pictures.panels import CODE_PIXELS, UNIT_PIXELS, Size, check_size
from .planner import Demand, plan_memory, weights_of
from .tokens.vocabulary import CODES_PER_UNIT, Vocabulary

__all__ = ["DecodeSettings", "Request", "StepReport", "check_request", "draw"]

# After running out of memory: the share of a run's bytes that another is to take.
LESS = 0.75


def check_request(request: Request, config: TransformerConfig, vocabulary: Vocabulary) -> None:
    """Raises InputError for anything in a request that the model cannot draw; warns about untrained sizes."""
    _check(request, config, vocabulary, config.trained_sizes)


def _check(
    request: Request, config: TransformerConfig, vocabulary: Vocabulary, trained_sizes: Sequence[Size] | None
) -> None:
    if not request.prompts:
        raise InputError("no prompt came; expected one for each picture")
    longest = max(map(len, request.prompts))
    width, height = request.grid_w * CODE_PIXELS, request.grid_h * CODE_PIXELS
    max_side = vocabulary.max_units * UNIT_PIXELS
    check_size(width, height, config.max_position_embeddings, trained_sizes, longest, max_side)
    check_window(request.canvas, request.settings)


def draw(
    transformer: Transformer,
    vocabulary: Vocabulary,
    request: Request,
    on_step: Callable[[StepReport], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> DecodeResult:
    """Draws a request's pictures; both callbacks as in `decode`. Raises InputError before any work, Cancelled, and
    OutOfMemory naming what would take less, everything that the run held given back.

    Checks as `check_request` does, but leaves the warning to it.
    """
    _check(request, transformer.config, vocabulary, trained_sizes=())
    given = request.given()
    header = vocabulary.header(request.grid_h // CODES_PER_UNIT, request.grid_w // CODES_PER_UNIT)
    prefixes = [
        Prefix(tuple(prompt), (*header, *(vocabulary.row_tokens(rows) if len(rows) else ())))
        for prompt, rows in zip(request.prompts, given, strict=True)
    ]
    return explain_out_of_memory(
        lambda: decode(
            transformer,
            request.canvas,
            prefixes,
            given,
            vocabulary.end_of_row,
            request.settings,
            on_step,
            should_cancel,
        ),
        lambda: _out_of_memory(Demand(transformer.config, weights_of(transformer), request)),
    )


def _out_of_memory(demand: Demand) -> str:
    """What to say of a run that the device refused memory for, whatever was foretold."""
    plan = plan_memory(demand)
    budget = Budget(LESS * plan.total)
    return f"out of memory while drawing {demand.request}, which takes about {plan}; {advice(demand, budget)}"
