"""Training data of the demo's transformer: fresh scenes as picture codes after the prompt ids of their captions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lumina_core.pictures.sizes import HEADER_LENGTH
from lumina_core.tokens.prompts import build_prompt, find_template
from lumina_core.tokens.tokenizer import Tokenizer
from lumina_core.tokens.vocabulary import Vocabulary

from .world import (
    CANVAS,
    CELLS,
    GRID,
    SIZES,
    TASK_NAMES,
    TaskSample,
    begins_code,
    panel_codes,
    sample,
    sample_task,
    scene_codes,
)
from .world.scenes import SceneObject, drawn_claims, pick_weighted, stated_numbers

GIVEN_WEIGHT = 0.1
UNKNOWN = -100
# Scenes without text mostly have one object. Guidance magnifies how much likelier an object begins somewhere with the
# text than without: were scenes without text fuller than those of a text, all its objects would be drawn late.
WITHOUT_TEXT = {
    "single_object": 0.5,
    "colours": 0.15,
    "two_objects": 0.12,
    "counting": 0.08,
    "position": 0.1,
    "mixed": 0.05,
}
TWO_PANELS = (CANVAS, 2 * CANVAS)


@dataclass(frozen=True)
class Batch:
    """Input ids [B,S], padded at the end, and the positions [B,h·w] whose states predict the codes [B,h·w].

    `weights` [B,h·w] weigh the codes in the loss; codes that a task gives weigh less. `stated` [B,12] is what the
    texts say, see `stated_numbers`. `changed` [B,h·w] is 1 where an edit changes a code, 0 where it does not, and
    UNKNOWN elsewhere; in the given panel it is of the code to the left, which the state knows. `next_size` [B,h·w] is
    the size of the subject, an index into SIZES, at the codes from which it is the next object, up to its first.
    """

    input_ids: Tensor
    positions: Tensor
    codes: Tensor
    weights: Tensor
    stated: Tensor | None = None
    changed: Tensor | None = None
    next_size: Tensor | None = None


def make_batches(
    rng: np.random.Generator, size: int, without_text: int, tokenizer: Tokenizer, vocabulary: Vocabulary
) -> tuple[Batch, Batch]:
    """Batches of `size` scenes of the training mixture with captions, and of the first `without_text` without.

    Those are of the mixture WITHOUT_TEXT.
    """
    drawn = [sample(rng, pick_weighted(rng, WITHOUT_TEXT) if number < without_text else None) for number in range(size)]
    texts = [tokenizer.encode_prompt(build_prompt("t2i", CANVAS, CANVAS, one.caption)) for one in drawn]
    codes = torch.from_numpy(np.stack([scene_codes(one.scene) for one in drawn]))
    captioned, uncaptioned = _with_and_without_text(texts, codes, torch.ones(codes.shape), without_text, vocabulary)
    stated = torch.tensor([stated_numbers(drawn_claims(one.spec)) for one in drawn])
    return replace(captioned, stated=stated), uncaptioned


def make_task_batches(
    rng: np.random.Generator,
    size: int,
    without_text: int,
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    tasks: Sequence[str] = TASK_NAMES,
    changed_weight: float = 1.0,
) -> tuple[Batch, Batch]:
    """As `make_batches`, each sample of one of `tasks` on two panels; those without text keep their given panel.

    A task may name a kind after a colon, as "control:pose"; else any kind is drawn. `changed_weight` is the weight of
    the codes that an edit changes.
    """
    drawn = [_draw_task(rng, tasks) for _ in range(size)]
    texts = [tokenizer.encode_prompt(task_prompt(one)) for one in drawn]
    codes = torch.from_numpy(
        np.stack([np.concatenate([panel_codes(one.upper), panel_codes(one.lower)]) for one in drawn])
    )
    weights, changed, next_size = torch.ones(codes.shape), *torch.full((2, *codes.shape), UNKNOWN)
    for one, grid, row, differs, sizes in zip(drawn, codes, weights, changed, next_size, strict=True):
        upper, lower = row.chunk(2)
        if find_template(one.task).needs_condition:
            upper.fill_(GIVEN_WEIGHT)
        if one.edit:
            edited = torch.ne(*grid.chunk(2))
            differs[CELLS:] = edited
            differs[:CELLS, 1:] = edited[:, :-1]
            lower[edited] = changed_weight
        if one.task == "subject":
            sizes[CELLS:] = _next_size(one.changed, grid[CELLS:])
    captioned, uncaptioned = _with_and_without_text(texts, codes, weights, without_text, vocabulary)
    stated = torch.tensor([stated_numbers(one.stated) for one in drawn])
    return replace(captioned, stated=stated, changed=changed.flatten(1), next_size=next_size.flatten(1)), uncaptioned


def first_panel(batch: Batch) -> Batch:
    """The batch without its second panel."""
    count = batch.codes.shape[1] // 2
    names = ("positions", "codes", "weights", "changed", "next_size")
    parts = {name: getattr(batch, name)[:, :count] for name in names}
    return replace(batch, input_ids=batch.input_ids[:, : int(parts["positions"].max()) + 2], **parts)


def _draw_task(rng: np.random.Generator, tasks: Sequence[str]) -> TaskSample:
    task, _, kind = tasks[int(rng.integers(len(tasks)))].partition(":")
    return sample_task(rng, task, kind or None)


def _next_size(subject: SceneObject, grid: Tensor) -> Tensor:
    """The subject's size at the codes of its panel [12,12] from which it is next, up to its first, else UNKNOWN."""
    first = subject.y // GRID * CELLS + subject.x // GRID
    codes = grid.flatten()
    earlier = (codes[: first - 1] == begins_code()).nonzero()
    sizes = torch.full_like(codes, UNKNOWN)
    sizes[int(earlier.max()) + 2 if len(earlier) else 0 : first + 1] = list(SIZES).index(subject.size)
    return sizes.view_as(grid)


def task_prompt(one: TaskSample) -> str:
    """The full prompt of a task on two panels."""
    return build_prompt(one.task, *TWO_PANELS, one.prompt, one.map, one.object)


def _with_and_without_text(
    texts: Sequence[list[int]], codes: Tensor, weights: Tensor, without_text: int, vocabulary: Vocabulary
) -> tuple[Batch, Batch]:
    uncaptioned = make_batch([[]] * without_text, codes[:without_text], weights[:without_text], vocabulary)
    return make_batch(texts, codes, weights, vocabulary), uncaptioned


def make_batch(texts: Sequence[list[int]], codes: Tensor, weights: Tensor, vocabulary: Vocabulary) -> Batch:
    """The batch of pictures, codes [B,h,w], after the ids of their texts; an empty text is the branch without text."""
    rows = [[*text, *vocabulary.picture_tokens(grid)] for text, grid in zip(texts, codes, strict=True)]
    length = max(map(len, rows))
    input_ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    grid_h, grid_w = codes.shape[1:]
    row, column = torch.arange(grid_h)[:, None], torch.arange(grid_w)
    offsets = (HEADER_LENGTH - 1 + row * (grid_w + 1) + column).flatten()
    starts = torch.tensor([len(text) for text in texts])
    return Batch(input_ids, starts[:, None] + offsets, codes.flatten(1), weights.flatten(1))
