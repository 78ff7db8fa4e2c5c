"""Training data of the demo's transformer: scenes as picture codes, captions as prompt ids, batches of both."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lumina_core.movqgan import MoVQGAN
from lumina_core.prompts import build_prompt
from lumina_core.tokenizer import Tokenizer
from lumina_core.vocabulary import HEADER_LENGTH, Vocabulary

from .world import CANVAS, Spec, render, sample
from .world.captions import write_caption

TEXT_DROPPED = 0.1
ENCODE_BATCH = 32


@dataclass(frozen=True)
class Pool:
    """Codes [N,h,w] of N scenes and the claim that each was drawn for."""

    codes: Tensor
    specs: list[Spec]


@dataclass(frozen=True)
class Batch:
    """Input ids [B,S], padded behind; the positions [B,h·w] whose states predict the codes [B,h·w]."""

    input_ids: Tensor
    positions: Tensor
    codes: Tensor


@torch.inference_mode()
def make_pool(movqgan: MoVQGAN, rng: np.random.Generator, size: int) -> Pool:
    """`size` scenes of the training mixture, encoded."""
    codes, specs = [], []
    for start in range(0, size, ENCODE_BATCH):
        drawn = [sample(rng) for _ in range(min(ENCODE_BATCH, size - start))]
        pictures = torch.from_numpy(np.stack([render(one.scene) for one in drawn]))
        codes.append(movqgan.encode(pictures.permute(0, 3, 1, 2).float() / 127.5 - 1))
        specs += [one.spec for one in drawn]
    return Pool(torch.cat(codes).clone(), specs)


def make_batch(
    pool: Pool, chosen: np.ndarray, rng: np.random.Generator, tokenizer: Tokenizer, vocabulary: Vocabulary, length: int
) -> Batch:
    """The chosen scenes, each with a fresh wording of its caption; one in ten with no text, for guidance."""
    rows, starts = [], []
    for index in chosen:
        text = [] if rng.random() < TEXT_DROPPED else _prompt_ids(pool.specs[index], rng, tokenizer)
        ids = text + vocabulary.picture_tokens(pool.codes[index])
        starts.append(len(text))
        rows.append((ids + [0] * length)[:length])
    grid_h, grid_w = pool.codes.shape[1:]
    row, column = torch.arange(grid_h)[:, None], torch.arange(grid_w)
    offsets = (HEADER_LENGTH - 1 + row * (grid_w + 1) + column).flatten()
    codes = pool.codes[torch.from_numpy(chosen)].flatten(1)
    return Batch(torch.tensor(rows), torch.tensor(starts)[:, None] + offsets, codes)


def _prompt_ids(spec: Spec, rng: np.random.Generator, tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode_prompt(build_prompt("t2i", CANVAS, CANVAS, write_caption(rng, spec)))
