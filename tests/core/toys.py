"""Toys for tests of decoding: small transformers of random weights, and the exact law of the pictures they draw."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.decoding.canvas import Canvas
from lumina_core.decoding.loop import OnStep, decode
from lumina_core.decoding.request import Request
from lumina_core.decoding.settings import DecodeResult, DecodeSettings
from lumina_core.model.transformer import Transformer
from lumina_core.pictures.sizes import CODES_PER_UNIT
from lumina_core.tokens.vocabulary import Vocabulary

TEXT_IDS = 32
POOL_EXPECTED = 20


class AnySize(Vocabulary):
    """A vocabulary that names the next larger size where a side is no whole number of grid units."""

    def header(self, grid_h: int, grid_w: int) -> list[int]:
        units_h, units_w = (-(-side // CODES_PER_UNIT) for side in (grid_h, grid_w))
        return [self.image_start, self.grid_units[units_h], self.grid_units[units_w]]


def toy_vocabulary(codes: int, kind: type[Vocabulary] = Vocabulary) -> Vocabulary:
    """Picture tokens 1 to 12, text up to 32, then the codes."""
    return kind(
        image_start=1,
        image_end=2,
        end_of_row=3,
        end_of_turn=4,
        grid_units=tuple(range(5, 13)),
        image_token_offset=TEXT_IDS,
        codebook_size=codes,
    )


def toy_transformer(codes: int, hidden: int = 16, heads: int = 2, spread: float = 1.0, seed: int = 0) -> Transformer:
    """Two layers of random weights, so large that attention is sharp; its code logits have deviation `spread`."""
    config = TransformerConfig(
        vocab_size=TEXT_IDS + codes,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        max_position_embeddings=256,
        image_token_offset=TEXT_IDS,
        codebook_size=codes,
        trained_sizes=((32, 32), (32, 64)),
    )
    model, generator = Transformer(config), torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        if weight.ndim == 2 and min(weight.shape) > 1:
            weight.data.normal_(0, 1.5 * weight.shape[1] ** -0.5, generator=generator)
    model.text_embedding, model.text_head = (
        torch.randn(config.vocab_size, hidden, generator=generator) * scale for scale in (1, spread * hidden**-0.5)
    )
    model.code_embedding.weight.data = model.text_embedding[TEXT_IDS:].clone()
    model.code_head.weight.data = model.text_head[TEXT_IDS:].clone()
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class Toy:
    """A transformer and a picture to draw with it: rows and columns, the prompts of a batch in turn, given rows [h0,w].

    With a mask [h,w] of what is drawn, the given codes are the whole grid. `negative` is the prompt of the
    unconditional branch.
    """

    transformer: Transformer
    grid_h: int
    grid_w: int
    prompts: tuple[tuple[int, ...], ...]
    given_codes: Tensor
    mask: Tensor | None = None
    negative: tuple[int, ...] = ()

    @property
    def codes(self) -> int:
        return self.transformer.config.codebook_size

    @property
    def vocabulary(self) -> Vocabulary:
        return toy_vocabulary(self.codes, AnySize)

    @property
    def canvas(self) -> Canvas:
        return self._request(self.prompts, DecodeSettings()).canvas

    @property
    def drawn(self) -> Tensor:
        """Where a code is drawn, of those after the first given rows, in their order."""
        request = self._request(self.prompts[:1], DecodeSettings())
        return request.drawn[0, request.canvas.given_rows :].flatten()

    @property
    def picture_ids(self) -> tuple[int, ...]:
        """Tokens of the picture before the first row in which something is drawn."""
        given = self.given_codes[: self.canvas.given_rows]
        header = self.vocabulary.header(self.grid_h, self.grid_w)
        return (*header, *(self.vocabulary.row_tokens(given) if len(given) else ()))

    def decode(
        self, settings: DecodeSettings, pictures: int, on_step: OnStep | None = None, **callbacks: Any
    ) -> DecodeResult:
        """The engine's pictures."""
        prompts = [self.prompts[k % len(self.prompts)] for k in range(pictures)]
        request = self._request(prompts, settings)
        return decode(self.transformer, self.vocabulary, request, on_step, **callbacks)

    def _request(self, prompts: Sequence[tuple[int, ...]], settings: DecodeSettings) -> Request:
        score, negatives = self.mask is not None, [self.negative] * len(prompts) if self.negative else None
        grid = self.grid_h, self.grid_w, self.given_codes
        return Request(prompts, *grid, settings, negatives, mask=self.mask, score_given=score)

    def log_probs(self, codes: Tensor, settings: DecodeSettings, prompt: tuple[int, ...]) -> Tensor:
        """What autoregressive decoding draws each of the n codes [M,n] after the given rows from: [M,n,K].

        One plain pass in float64 without a cache; guidance, temperature and cuts written out anew.
        """
        model = copy.deepcopy(self.transformer).double()
        first, row_length = self.transformer.config.image_token_offset, self.grid_w + 1
        rows = F.pad(codes.unflatten(1, (-1, self.grid_w)) + first, (0, 1), value=self.vocabulary.end_of_row)
        drawn = rows.flatten(1)[:, :-1]

        def branch(prefix: tuple[int, ...]) -> Tensor:
            ids = torch.cat((torch.tensor(prefix).expand(len(codes), -1), drawn), 1)
            logits = model(ids)[:, len(prefix) - 1 :, first:]
            return logits.unflatten(1, (-1, row_length))[:, :, :-1].flatten(1, 2)

        uncond = branch(self.negative + self.picture_ids)
        guided = uncond + settings.cfg_scale * (branch(prompt + self.picture_ids) - uncond)
        return cut(guided / settings.temperature, settings).log_softmax(-1)

    def law(self, settings: DecodeSettings) -> Tensor:
        """Exact probabilities [prompts,K,…,K] of all drawn codes under autoregressive decoding, by the chain rule."""
        drawn = self.drawn
        every = torch.cartesian_prod(*[torch.arange(self.codes)] * int(drawn.sum()))
        lines = self.given_codes[self.canvas.given_rows :].flatten() if self.mask is not None else every[0]
        lines = lines.repeat(len(every), 1)
        lines[:, drawn] = every
        parts = []
        for prompt in self.prompts:
            log_probs = self.log_probs(lines, settings, prompt).gather(-1, lines[..., None])[..., 0]
            parts.append(log_probs[:, drawn].sum(1).exp() / len(self.prompts))
        return torch.cat(parts).view(self._outcomes)

    def counts(self, result: DecodeResult) -> Tensor:
        """How often each outcome [prompts,K,…,K] came in a batch."""
        drawn = result.codes[:, self.canvas.given_rows :].flatten(1)[:, self.drawn]
        cell = torch.arange(len(drawn)) % len(self.prompts)
        for column in drawn.T:
            cell = cell * self.codes + column
        return cell.bincount(minlength=math.prod(self._outcomes)).view(self._outcomes)

    @property
    def _outcomes(self) -> tuple[int, ...]:
        return (len(self.prompts), *[self.codes] * int(self.drawn.sum()))


def cut(logits: Tensor, settings: DecodeSettings) -> Tensor:
    """Logits [...,K] with the codes at −inf that top-k, top-p or min-p leaves out, by sorted probabilities."""
    rank = logits.argsort(-1, descending=True).argsort(-1)
    logits = logits.masked_fill(rank >= settings.top_k, -torch.inf)
    if settings.top_p < 1:
        ordered = logits.softmax(-1).sort(-1, descending=True).values
        needed = 1 + (ordered.cumsum(-1) < settings.top_p).sum(-1, keepdim=True)
        logits = logits.masked_fill(rank >= needed, -torch.inf)
    probs = logits.softmax(-1)
    return logits.masked_fill(probs < settings.min_p * probs.amax(-1, keepdim=True), -torch.inf)


def fit(counts: Tensor, law: Tensor) -> float:
    """p-value that counts [prompts,K,…,K] are draws from a law of that shape.

    The least p-value of the joint law's test and of those of all pairs of places, times the number of these tests.
    """
    places = range(1, law.ndim)
    p_values = [chi_square(counts.flatten(), law.flatten())]
    for pair in itertools.combinations(places, 2):
        others = tuple(set(places) - set(pair))
        p_values.append(chi_square(counts.sum(others).flatten(), law.sum(others).flatten()))
    return min(1.0, min(p_values) * len(p_values))


def chi_square(counts: Tensor, law: Tensor) -> float:
    """p-value of Pearson's test that counts [cells] are draws from a law [cells]; 0 where the impossible happened.

    Cells are sorted by probability and pooled until about POOL_EXPECTED, at least half of it, is expected in each.
    """
    if bool(counts[law == 0].any()):
        return 0.0
    expected, order = (law * counts.sum()).sort(descending=True)
    pool = (expected.cumsum(0) / POOL_EXPECTED).floor().long()
    pool = pool.unique_consecutive(return_inverse=True)[1]
    pool = pool.clamp_max(int(pool[-1]) - 1)
    pools = int(pool[-1]) + 1
    observed = torch.zeros(pools, dtype=torch.float64).index_add_(0, pool, counts[order].double())
    expected = torch.zeros(pools, dtype=torch.float64).index_add_(0, pool, expected.double())
    statistic = ((observed - expected) ** 2 / expected).sum()
    # The chi-square distribution's tail; by torch, so that the tests on a GPU need no SciPy.
    return float(torch.special.gammaincc(torch.tensor((pools - 1) / 2, dtype=torch.float64), statistic / 2))
