"""Sets three attention heads so that an edit finds the object that its text names, and a subject keeps its size.

That two vectors stand for one kind is hard to find by small steps from a random head: after 9,000 steps of the demo's
training, edits still took any of the objects. So, once in a training, heads are set by least squares, and training goes
on from there. The first is in the given panel: the query of an object's cell and the key of the last state before the
picture are one vector where the kinds are the same, and what is read there says "this changes". The second carries that
to the panel that is drawn: the state before a code reads it at the cell after the same place of the given panel, where
the object is seen that begins there. The third reads at every state the size of the objects in the given panel: where a
subject may begin depends on it, long before the subject is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lumina_core.kernels.reference import apply_rope, head_norm
from lumina_core.model.layers import Attention
from lumina_core.model.rope import rope_table

from .codes import Batch
from .questions import AHEAD_LAYER, STATED_LAYER, states_after
from .world import CELLS, KINDS, SIZES, code_factors, looks
from .world.cells import KIND, OBJECT

if TYPE_CHECKING:
    from .transformer import TrainingModel

MATCHING_LAYER, MATCHING_HEAD = STATED_LAYER + 1, 2
READING_LAYER, READING_HEAD = AHEAD_LAYER, 0
SIZE_LAYER, SIZE_HEAD = STATED_LAYER + 1, 0
DISTANCE = CELLS * (CELLS + 1) - 2  # From the state before a code to the cell after its place in the panel above.
BATCHES, RIDGE = 30, 1e-3
SCALE = 2.4  # Of queries and keys. The norm of a head takes it out: it says how slowly training moves them.
GIVES = (20.0, 16.0, 10.0)
TOLD_WEIGHT, OTHER_WEIGHT = 30.0, 0.3  # Of the state that was told the kind, and of all that are no object's cells.
SEED, FITS, FIT_RATE = 0, 1500, 0.05


def set_heads(model: TrainingModel, given: Callable[[], Batch], whole: Callable[[], Batch]) -> None:
    """Sets the heads; `given` draws edits that end with their given panel, `whole` those with both panels."""
    set_matching_head(model, given)
    set_size_head(model, whole)
    set_reading_head(model, whole)


@torch.no_grad()
def set_matching_head(model: TrainingModel, given: Callable[[], Batch]) -> None:
    """Objects look at the state that was told a kind, and read that they change, if that kind is theirs."""
    attention = _attention(model, MATCHING_LAYER)
    vectors = _kind_vectors(attention.head_dim)
    states, queries, is_object, keys, is_told = _together(_kinds_of(model, given(), vectors) for _ in range(BATCHES))
    query = SCALE * _least_squares(states, queries, is_object)
    told = (is_told > OTHER_WEIGHT).float()[:, None]
    key, told = _least_squares(states, torch.cat([keys, told], 1), is_told).split((len(vectors[0]), 1))
    _set_head(attention, MATCHING_HEAD, (query, SCALE * key, told), GIVES[0], _changing(model))


@torch.no_grad()
def set_size_head(model: TrainingModel, whole: Callable[[], Batch]) -> None:
    """Every state looks at the objects of the given panel, and at nothing else, and reads their size."""
    attention = _attention(model, SIZE_LAYER)
    states, sizes, is_object = _together(_sizes_of(model, whole()) for _ in range(BATCHES))
    seen = 2 * is_object - 1  # The norm of keys leaves their sign.
    balance = torch.where(is_object > 0, (1 - is_object).sum() / is_object.sum(), 1.0)
    always, seen = (_least_squares(states, wanted[:, None], balance) for wanted in (torch.ones_like(seen), seen))
    sizes = _least_squares(states, sizes, is_object + OTHER_WEIGHT * (1 - is_object))
    one = _kind_vectors(attention.head_dim)[0][:, None]
    directions = model.questions.next_size.weight
    rows = SCALE * one * always, SCALE * one * seen, sizes
    _set_head(attention, SIZE_HEAD, rows, GIVES[2], directions - directions.mean(0))


@torch.no_grad()
def set_reading_head(model: TrainingModel, whole: Callable[[], Batch]) -> None:
    """The state before a code looks at the same place of the given panel, and reads whether it changes."""
    attention = _attention(model, READING_LAYER)
    states, changed, is_given = _together(_changes_of(model, whole()) for _ in range(BATCHES))
    always, changed = _least_squares(states, torch.stack([torch.ones_like(changed), changed], 1), is_given).split(1)
    query, key = (
        vector[:, None] * always for vector in _distance_vectors(attention, model.transformer.config.rope_theta)
    )
    _set_head(attention, READING_HEAD, (query, key, changed), GIVES[1], _changing(model))


def _attention(model: TrainingModel, layer: int) -> Attention:
    return model.transformer.layers[layer].self_attn


def _changing(model: TrainingModel) -> Tensor:
    """The direction [1,width] in which a state says that its object changes."""
    stays, changes = model.questions.changed.weight
    return (changes - stays)[None]


def _set_head(attention: Attention, head: int, rows: tuple[Tensor, ...], gives: float, directions: Tensor) -> None:
    """Sets the head's query and key rows and the first of its value rows, each of which gives one of the directions."""
    size, (heads, kv_heads, _) = attention.head_dim, attention.heads
    for first, part in zip((head, heads + head, heads + kv_heads + head), rows, strict=True):
        attention.qkv_proj.weight[first * size : first * size + len(part)] = part.to(attention.qkv_proj.weight)
    out = attention.o_proj.weight[:, head * size : (head + 1) * size]
    out.zero_()
    out[:, : len(directions)] = gives * F.normalize(directions, dim=1).T


def _together(examples: Iterable[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.cat(part) for part in zip(*examples, strict=True))


def _least_squares(states: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """The rows [m,width] that make of states [n,width] what is wanted [n,m], weighted [n]."""
    weighted = states * weights[:, None]
    squares = weighted.T @ states
    ridge = RIDGE * squares.diagonal().mean() * torch.eye(len(squares))
    return torch.linalg.solve(squares + ridge, weighted.T @ wanted).T


def _kind_vectors(size: int) -> Tensor:
    """A unit vector [kinds + 2,size] for each kind, and one each for queries and keys that have none.

    Those of kinds, which are far from one another, lie in the half of the head that RoPE turns slowly.
    """
    vectors = torch.randn(len(KINDS) + 2, size // 2, generator=torch.Generator().manual_seed(SEED))
    for _ in range(500):
        vectors = F.normalize(vectors - vectors.mean(1, keepdim=True), dim=1)
        overlap = vectors @ vectors.T - torch.eye(len(vectors))
        vectors = vectors - overlap.sign() * overlap.abs() ** 3 @ vectors
    vectors = F.normalize(vectors - vectors.mean(1, keepdim=True), dim=1)
    quick, slow = torch.arange(size).view(2, 2, -1).transpose(0, 1).flatten(1)
    placed = torch.zeros(len(vectors), size)
    placed[:-2, slow], placed[-2:, quick] = vectors[:-2], vectors[-2:]
    return placed


def _kinds_of(model: TrainingModel, batch: Batch, vectors: Tensor) -> tuple[Tensor, ...]:
    """States [n,width] before the matching layer, and the queries [n,size] and keys they should have, with weights [n].

    A cell of an object has its kind's query; the last state before the picture has the key of the kind in the text.
    """
    states = _states_before(model, MATCHING_LAYER, batch)
    queries, keys = (vectors[place].repeat(*states.shape[:2], 1) for place in (-2, -1))
    is_object, is_told = (torch.full(states.shape[:2], OTHER_WEIGHT) for _ in range(2))
    rows, told = torch.arange(len(states)), batch.positions[:, 0]
    keys[rows, told], is_told[rows, told] = vectors[batch.stated[:, 0] - 1], TOLD_WEIGHT
    objects = torch.tensor([look.style == OBJECT for look in looks()])
    rows, places = objects[batch.codes].nonzero(as_tuple=True)
    kinds = torch.from_numpy(code_factors()[:, KIND])[batch.codes[rows, places]] - 1
    positions = batch.positions[rows, places] + 1
    queries[rows, positions], is_object[rows, positions] = vectors[kinds], 1.0
    return tuple(part.flatten(0, 1) for part in (states, queries, is_object, keys, is_told))


def _changes_of(model: TrainingModel, batch: Batch) -> tuple[Tensor, ...]:
    """States [n,width] before the reading layer, whether the cell seen there changes [n], and weights [n]."""
    states = _states_before(model, READING_LAYER, batch)
    given, drawn = batch.codes.chunk(2, 1)
    changed, is_given = torch.zeros(states.shape[:2]), torch.full(states.shape[:2], OTHER_WEIGHT)
    positions = batch.positions[:, : given.shape[1]] + 1
    changed.scatter_(1, positions, (given != drawn).float())
    is_given.scatter_(1, positions, 1.0)
    return tuple(part.flatten(0, 1) for part in (states, changed, is_given))


def _sizes_of(model: TrainingModel, batch: Batch) -> tuple[Tensor, ...]:
    """States [n,width] before the size layer, sizes [n,3] seen in the given panel, and where an object is [n]."""
    states = _states_before(model, SIZE_LAYER, batch)
    is_object = torch.zeros(states.shape[:2])
    sizes = torch.zeros(*states.shape[:2], len(SIZES))
    size_of = torch.tensor([list(SIZES).index(look.size) if look.style == OBJECT else -1 for look in looks()])
    given = size_of[batch.codes.chunk(2, 1)[0]]
    rows, places = (given >= 0).nonzero(as_tuple=True)
    positions = batch.positions[rows, places] + 1
    is_object[rows, positions] = 1.0
    sizes[rows, positions] = F.one_hot(given[rows, places], len(SIZES)) - 1 / len(SIZES)
    return tuple(part.flatten(0, 1) for part in (states, sizes, is_object))


def _states_before(model: TrainingModel, layer: int, batch: Batch) -> Tensor:
    keep = torch.zeros(batch.codes.shape, dtype=torch.bool)
    with states_after([model.transformer.layers[layer].input_layernorm]) as states:
        model.logits(batch, keep, model.tables())
    return states[0].float().cpu()


@torch.enable_grad()
def _distance_vectors(attention: Attention, theta: float) -> tuple[Tensor, Tensor]:
    """A query and a key [size] of which every state attends to the one DISTANCE before it."""
    size, farthest = attention.head_dim, 2 * DISTANCE
    norms = [
        [value.detach() for value in norm.weight_and_bias(torch.zeros(1))]
        for norm in (attention.q_norm, attention.k_norm)
    ]
    cos, sin = rope_table(farthest + 1, size, theta, dtype=torch.float32, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(SEED)
    vectors = [nn.Parameter(torch.randn(size, generator=generator)) for _ in range(2)]
    optimizer = torch.optim.Adam(vectors, lr=FIT_RATE)
    for _ in range(FITS):
        query, key = (head_norm(vector[None], *norm)[0] for vector, norm in zip(vectors, norms, strict=True))
        turned = apply_rope(key.expand(farthest, size), cos[:farthest], sin[:farthest])
        last = apply_rope(query, cos[farthest], sin[farthest])
        scores = turned @ last / size**0.5
        loss = -scores.log_softmax(0)[farthest - DISTANCE]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return vectors[0].detach(), vectors[1].detach()
