"""Training data of the demo's transformer: fresh scenes as picture codes after the prompt ids of their captions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lumina_core.pictures.sizes import HEADER_LENGTH
from lumina_core.tokens.prompts import build_prompt, find_template
from lumina_core.tokens.tokenizer import Tokenizer
from lumina_core.tokens.vocabulary import Vocabulary

from .world import CANVAS, TASK_NAMES, TaskSample, panel_codes, sample, sample_task, scene_codes

GIVEN_WEIGHT = 0.1
TWO_PANELS = (CANVAS, 2 * CANVAS)


@dataclass(frozen=True)
class Batch:
    """Input ids [B,S], padded at the end, and the positions [B,h·w] whose states predict the codes [B,h·w].

    `weights` [B,h·w] weigh the codes in the loss; codes that a task gives weigh less.
    """

    input_ids: Tensor
    positions: Tensor
    codes: Tensor
    weights: Tensor


def make_batches(
    rng: np.random.Generator, size: int, without_text: int, tokenizer: Tokenizer, vocabulary: Vocabulary
) -> tuple[Batch, Batch]:
    """Batches of `size` scenes of the training mixture with captions, and of the first `without_text` without."""
    drawn = [sample(rng) for _ in range(size)]
    texts = [tokenizer.encode_prompt(build_prompt("t2i", CANVAS, CANVAS, one.caption)) for one in drawn]
    codes = torch.from_numpy(np.stack([scene_codes(one.scene) for one in drawn]))
    return _with_and_without_text(texts, codes, torch.ones(codes.shape), without_text, vocabulary)


def make_task_batches(
    rng: np.random.Generator,
    size: int,
    without_text: int,
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    tasks: Sequence[str] = TASK_NAMES,
    changed_weight: float = 1.0,
    crowded: bool = False,
) -> tuple[Batch, Batch]:
    """As `make_batches`, each sample of one of `tasks` on two panels; those without text keep their given panel.

    A task may name a kind after a colon, as "control:pose"; else any kind is drawn. `changed_weight` is the weight of
    the codes that an edit changes. `crowded`: edits are of scenes with several objects, where the text must state which
    object is meant.
    """
    drawn = [_draw_task(rng, tasks, crowded) for _ in range(size)]
    texts = [tokenizer.encode_prompt(task_prompt(one)) for one in drawn]
    codes = torch.from_numpy(
        np.stack([np.concatenate([panel_codes(one.upper), panel_codes(one.lower)]) for one in drawn])
    )
    weights = torch.ones(codes.shape)
    for one, grid, row in zip(drawn, codes, weights, strict=True):
        upper, lower = row.chunk(2)
        if find_template(one.task).needs_condition:
            upper.fill_(GIVEN_WEIGHT)
        if one.edit:
            lower[torch.ne(*grid.chunk(2))] = changed_weight
    return _with_and_without_text(texts, codes, weights, without_text, vocabulary)


def _draw_task(rng: np.random.Generator, tasks: Sequence[str], crowded: bool) -> TaskSample:
    while True:
        task, _, kind = tasks[int(rng.integers(len(tasks)))].partition(":")
        drawn = sample_task(rng, task, kind or None)
        if not (crowded and drawn.edit) or len(drawn.upper.scene.objects) > 1:
            return drawn


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
