"""A transformer whose law is constructed and calibrated, not trained: high entropy, near and far dependence.

The built-in demo draws from a fraction of a nat a code, which says little of decoders. This law has 1,024 codes of 4
to 6 nats and runs on the real `Transformer` class. Queries and keys are constant vectors, so that RoPE makes an
attention score a function of the distance Δ only, Σ_f A·cos(θ_f·(Δ − Δ0)): each head reads one token, Δ0 back. Four
heads read the code above the next one, those at either side of it, and the one two to the left; the residual stream
holds the code at the left. Four far heads read codes of the same row: through them a window's wrong drafts spoil those
after them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.decoding.loop import decode
from lumina_core.decoding.request import Request
from lumina_core.decoding.settings import DecodeResult, DecodeSettings
from lumina_core.model.transformer import Transformer
from lumina_core.pictures.sizes import CODES_PER_UNIT
from lumina_core.tokens.vocabulary import Vocabulary

CODES, GRID_W = 1024, 96
ROW_LENGTH = GRID_W + 1
TEXT_IDS, MAX_UNITS, BLANK = 64, 32, 40
MAX_GRID_H = MAX_UNITS * CODES_PER_UNIT
# Blank tokens of the prompt: what the heads find where the picture has no row above.
PROMPT_TOKENS = 128

# The hidden state: an embedding of the code, a constant, and what the MLP computes.
HEAD_DIM, HIDDEN, INTERMEDIATE = 32, 64, 64
CONSTANT = HEAD_DIM
CONSTANT_VALUE = math.sqrt(HIDDEN)
ROPE_THETA = 1000.0
FREQUENCIES = ROPE_THETA ** (-torch.arange(HEAD_DIM // 2) / (HEAD_DIM // 2))
# The slowest pair of a query meets zeros in every key: it brings all queries to the same mean and norm.
SPARE = HEAD_DIM // 2 - 1
# The score at a head's distance; one token further it is 7 less.
PEAK_SCORE = 150.0
QUERY_NORM_WEIGHT = 100.0


@dataclass(frozen=True)
class Head:
    """A head that reads the token `distance` before the last one, `distance` + 1 before the next one.

    `share` is the length of what it adds to the state, where the code at the left has 1; `turned` by a random rotation.
    """

    distance: int
    share: float
    turned: bool = True


# What predicts the next code: the one above it, those above at the left and right, and the one two to the left.
ABOVE = ROW_LENGTH - 1
NEAR_HEADS = (Head(ABOVE, 1.0, turned=False), Head(ABOVE + 1, 0.4), Head(ABOVE - 1, 0.4), Head(1, 0.3))
FAR_DISTANCES = (3, 9, 22, 43)


@dataclass(frozen=True)
class Calibration:
    """The free values of the law: `far` is the length of what all far heads add, `bias` spreads the codes' frequencies.

    `head_scale` is how much a code depends on those before it.
    """

    name: str
    far: float
    bias: float
    head_scale: float = 0.15

    @property
    def heads(self) -> tuple[Head, ...]:
        share = self.far / math.sqrt(len(FAR_DISTANCES))
        return (*NEAR_HEADS, *(Head(distance, share) for distance in FAR_DISTANCES if share))


# Measured on 32 rows, three pictures: nats a code, and times fewer forwards of `sjd` at a window of 32 and `coupled` at
# one of 64. Long memory: 4.6 nats, 2.39 and 4.35; the published pair of the real model is 2.2 to 2.3, and 4.2. Short
# memory: 5.7 nats, 2.29 and 10.7: nothing spoils later drafts, so that a wider window always pays.
CALIBRATIONS = {
    calibration.name: calibration
    for calibration in (
        Calibration("long-memory", far=2.0, bias=1.0),
        Calibration("short-memory", far=0.0, bias=0.6),
    )
}


class BlankVocabulary(Vocabulary):
    """A vocabulary that names the next larger size where a side is no whole number of grid units."""

    def header(self, grid_h: int, grid_w: int) -> list[int]:
        units_h, units_w = (-(-side // CODES_PER_UNIT) for side in (grid_h, grid_w))
        return [self.image_start, self.grid_units[units_h], self.grid_units[units_w]]


VOCABULARY = BlankVocabulary(
    image_start=1,
    image_end=2,
    end_of_row=3,
    end_of_turn=4,
    grid_units=tuple(range(5, 6 + MAX_UNITS)),
    image_token_offset=TEXT_IDS,
    codebook_size=CODES,
)


def law_settings(**fields: Any) -> DecodeSettings:
    """Settings of the law: no guidance, all codes, a window that does not adapt."""
    return DecodeSettings(**{"cfg_scale": 1.0, "top_k": CODES, "adapt_window": False, **fields})


def draw_law(model: Transformer, settings: DecodeSettings, seed: int, grid_h: int) -> DecodeResult:
    """One picture of `grid_h` rows of GRID_W codes."""
    request = Request([[BLANK] * PROMPT_TOKENS], grid_h, GRID_W, settings=replace(settings, seed=seed))
    return decode(model, VOCABULARY, request)


def make_transformer(calibration: Calibration, seed: int = 0) -> Transformer:
    """The law of a calibration as a transformer of one layer, in float32."""
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(_config(len(calibration.heads)))
    block = model.blocks[0]
    embedding = _embedding(generator)
    model.text_embedding, model.code_embedding.weight.data = embedding, embedding[TEXT_IDS:].clone()
    block.self_attn.qkv_proj.weight.data = _qkv_weight(calibration.heads)
    block.self_attn.q_norm.weight.data.fill_(QUERY_NORM_WEIGHT)
    block.self_attn.k_norm.weight.data.zero_()
    block.self_attn.k_norm.bias.data = _key()[None]
    block.self_attn.o_proj.weight.data = _o_weight(calibration.heads, generator)
    block.mlp.gate_up_proj.weight.data = _gate_up_weight(generator)
    block.mlp.down_proj.weight.data = _down_weight(generator)
    model.code_head.weight.data = _code_head(embedding[TEXT_IDS:, :HEAD_DIM], calibration, generator)
    model.text_head = torch.cat((torch.zeros(TEXT_IDS, HIDDEN), model.code_head.weight.data))
    return model.eval().requires_grad_(False)


def _config(heads: int) -> TransformerConfig:
    return TransformerConfig(
        vocab_size=TEXT_IDS + CODES,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=1,
        num_attention_heads=heads,
        num_key_value_heads=1,
        head_dim=HEAD_DIM,
        max_position_embeddings=16_384,
        rope_theta=ROPE_THETA,
        image_token_offset=TEXT_IDS,
        codebook_size=CODES,
    )


def _embedding(generator: torch.Generator) -> Tensor:
    """Embeddings [vocabulary,HIDDEN]: a random direction for each code, none for other tokens, and the constant."""
    embedding = torch.zeros(TEXT_IDS + CODES, HIDDEN)
    codes = torch.randn(CODES, HEAD_DIM, generator=generator)
    embedding[TEXT_IDS:, :HEAD_DIM] = codes / codes.norm(dim=-1, keepdim=True)
    embedding[:, CONSTANT] = CONSTANT_VALUE
    return embedding


def _qkv_weight(heads: tuple[Head, ...]) -> Tensor:
    """[(heads + 2)·HEAD_DIM,HIDDEN]: queries come of the constant, values of the code; keys come of the norm's bias."""
    weight = torch.zeros((len(heads) + 2) * HEAD_DIM, HIDDEN)
    for number, head in enumerate(heads):
        weight[number * HEAD_DIM : (number + 1) * HEAD_DIM, CONSTANT] = _query(head)
    weight[-HEAD_DIM:, :HEAD_DIM] = torch.eye(HEAD_DIM)
    return weight


def _key() -> Tensor:
    """The key [HEAD_DIM] of every token before RoPE: 1 at each frequency but the spare one."""
    key = torch.zeros(HEAD_DIM)
    key[:SPARE] = 1
    return key


def _query(head: Head) -> Tensor:
    """The query [HEAD_DIM] of a head before its norm: of mean 0 and variance 1, so that the norm leaves it as it is.

    A query (a, b) at a frequency scores a·cos(θΔ) − b·sin(θΔ) with the key Δ tokens before.
    """
    query, half = torch.zeros(HEAD_DIM), HEAD_DIM // 2
    angles = FREQUENCIES[:SPARE] * head.distance
    amplitude = PEAK_SCORE * math.sqrt(HEAD_DIM) / SPARE / QUERY_NORM_WEIGHT
    query[:SPARE], query[half:-1] = amplitude * angles.cos(), -amplitude * angles.sin()
    total, left = -float(query.sum()), HEAD_DIM - float(query.square().sum())
    apart = math.sqrt(2 * left - total**2)
    query[SPARE], query[-1] = (total + apart) / 2, (total - apart) / 2
    return query


def _o_weight(heads: tuple[Head, ...], generator: torch.Generator) -> Tensor:
    """[HIDDEN,heads·HEAD_DIM]: each head turns what it reads and brings it to the length of its share."""
    weight = torch.zeros(HIDDEN, len(heads) * HEAD_DIM)
    for number, head in enumerate(heads):
        turn = torch.linalg.qr(torch.randn(HEAD_DIM, HEAD_DIM, generator=generator)).Q
        turn = turn if head.turned else torch.eye(HEAD_DIM)
        weight[:HEAD_DIM, number * HEAD_DIM : (number + 1) * HEAD_DIM] = head.share * turn
    return weight


def _gate_up_weight(generator: torch.Generator) -> Tensor:
    """[2·INTERMEDIATE,HIDDEN], of the state only."""
    weight = torch.zeros(2 * INTERMEDIATE, HIDDEN)
    weight[:, :HEAD_DIM] = 0.7 * torch.randn(2 * INTERMEDIATE, HEAD_DIM, generator=generator)
    return weight


def _down_weight(generator: torch.Generator) -> Tensor:
    """[HIDDEN,INTERMEDIATE], to the values after the constant only."""
    weight = torch.zeros(HIDDEN, INTERMEDIATE)
    shape = HIDDEN - CONSTANT - 1, INTERMEDIATE
    weight[CONSTANT + 1 :] = torch.randn(shape, generator=generator) / INTERMEDIATE
    return weight


def _code_head(codes: Tensor, calibration: Calibration, generator: torch.Generator) -> Tensor:
    """[CODES,HIDDEN]: codes like those that the state holds are likely, others by chance; the constant gives a bias."""
    weight = torch.randn(CODES, HIDDEN, generator=generator)
    bias = weight[:, CONSTANT] * calibration.bias / CONSTANT_VALUE
    weight *= 0.45
    weight[:, :HEAD_DIM] += 0.9 * HEAD_DIM * codes
    weight *= calibration.head_scale
    weight[:, CONSTANT] = bias
    return weight
