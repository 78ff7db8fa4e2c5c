"""Training data of the demo's transformer: fresh scenes as picture codes behind the prompt ids of their captions."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lumina_core.prompts import build_prompt
from lumina_core.tokenizer import Tokenizer
from lumina_core.vocabulary import HEADER_LENGTH, Vocabulary

from .world import CANVAS, sample, scene_codes


@dataclass(frozen=True)
class Batch:
    """Input ids [B,S], padded behind; the positions [B,h·w] whose states predict the codes [B,h·w]."""

    input_ids: Tensor
    positions: Tensor
    codes: Tensor


def make_batches(
    rng: np.random.Generator, size: int, without_text: int, tokenizer: Tokenizer, vocabulary: Vocabulary
) -> tuple[Batch, Batch]:
    """`size` scenes of the training mixture with their captions, and the first `without_text` of them without."""
    drawn = [sample(rng) for _ in range(size)]
    texts = [tokenizer.encode_prompt(build_prompt("t2i", CANVAS, CANVAS, one.caption)) for one in drawn]
    codes = torch.from_numpy(np.stack([scene_codes(one.scene) for one in drawn]))
    plain = _batch([[]] * without_text, codes[:without_text], vocabulary)
    return _batch(texts, codes, vocabulary), plain


def _batch(texts: list[list[int]], codes: Tensor, vocabulary: Vocabulary) -> Batch:
    rows = [[*text, *vocabulary.picture_tokens(grid)] for text, grid in zip(texts, codes, strict=True)]
    length = max(map(len, rows))
    input_ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    grid_h, grid_w = codes.shape[1:]
    row, column = torch.arange(grid_h)[:, None], torch.arange(grid_w)
    offsets = (HEADER_LENGTH - 1 + row * (grid_w + 1) + column).flatten()
    starts = torch.tensor([len(text) for text in texts])
    return Batch(input_ids, starts[:, None] + offsets, codes.flatten(1))
