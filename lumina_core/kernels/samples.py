"""Inputs of every kernel's form, for its self-tests; their values are made on the device."""

from typing import Any

import torch
from torch import Generator, Tensor

from .kv_tensor import Stored
from .noise import picture_keys
from .reference import GROUP_SIZE


def attention_sample(
    device: torch.device | str,
    dtype: torch.dtype,
    *,
    kv_cache: str,
    filled: tuple[int, ...] = (70, 9),
    width: int = 4,
    heads: tuple[int, int] = (2, 2),
    head_dim: int = 64,
    length: int = 96,
    spoilt: bool = True,
) -> tuple[Tensor, Stored, Stored, Tensor, int]:
    """Arguments of `window_attention`: one row for each number of `filled` slots, whose last `width` are the window's.

    `heads` are those of the query and of the keys, `kv_cache` is auto (in `dtype`), int8 or int4. If `spoilt`,
    what lies behind the filled slots is infinite, or far off in few bits: a kernel that looks there is found out. The
    twin cannot bear what is infinite.
    """
    generator = _seeded(device)
    query = _normal(generator, len(filled), width, heads[0], head_dim).to(dtype)
    ends_of_good = filled if spoilt else (length,) * len(filled)
    shape = (len(filled), length, heads[1], head_dim)
    keys, values = (_stored(generator, shape, dtype, kv_cache, ends_of_good) for _ in "kv")
    input_pos = torch.tensor(filled, device=device)[:, None] - width + torch.arange(width, device=device)
    return query, keys, values, input_pos, max(filled)


def _stored(
    generator: Generator, shape: tuple[int, ...], dtype: torch.dtype, kv_cache: str, filled: tuple[int, ...]
) -> Stored:
    if kv_cache == "auto":
        numbers = _normal(generator, *shape).to(dtype)
        return Stored(_spoilt(numbers, filled, torch.inf))
    if kv_cache == "int8":
        codes = _whole(generator, -127, 128, shape, torch.int8)
        scales = _uniform(generator, *shape[:-1], 1) * 0.03 + 1e-3
        return Stored(codes, _spoilt(scales, filled, 1e6))
    *rest, head_dim = shape
    codes = _whole(generator, 0, 256, (*rest, head_dim // 2), torch.uint8)
    groups = (*rest, 2 * max(1, head_dim // 64))
    scales = (_uniform(generator, *groups) * 0.2 + 1e-2).bfloat16()
    lowest = _normal(generator, *groups).bfloat16()
    return Stored(codes, _spoilt(scales, filled, 1e6), lowest)


def _spoilt(numbers: Tensor, filled: tuple[int, ...], value: float) -> Tensor:
    for row, end in zip(numbers, filled, strict=True):
        row[end:] = value
    return numbers


def int4_sample(
    device: torch.device | str, dtype: torch.dtype, rows: int = 5, in_features: int = 256, out_features: int = 96
) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments of `int4_matmul`."""
    generator = _seeded(device)
    groups = -(-in_features // GROUP_SIZE)
    x = _normal(generator, rows, in_features).to(dtype)
    packed = _whole(generator, 0, 256, (out_features, groups * GROUP_SIZE // 2), torch.uint8)
    scale = _uniform(generator, out_features, groups) * 0.01 + 1e-3
    zero = _normal(generator, out_features, groups) * 0.01
    return x, packed, torch.stack((scale, zero), -1).bfloat16()


def int8_sample(
    device: torch.device | str, dtype: torch.dtype, rows: int = 5, in_features: int = 256, out_features: int = 96
) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments of `int8_matmul`."""
    generator = _seeded(device)
    x = _normal(generator, rows, in_features).to(dtype)
    codes = _whole(generator, -127, 128, (out_features, in_features), torch.int8)
    return x, codes, _uniform(generator, out_features) * 1e-3 + 1e-4


def logits_sample(device: torch.device | str, count: int = 1000, top_k: int = 50) -> tuple[Tensor, int]:
    """Arguments of `topk_cut`: bell-shaped rows, many ties, all the same, −inf and both zeros."""
    generator = _seeded(device)
    bell = _normal(generator, 2, count) * 3
    ties = _whole(generator, -3, 4, (1, count), torch.int64).float()
    few = torch.where(_uniform(generator, 1, count) < 0.02, bell[:1], -torch.inf)
    zeros = torch.where(_uniform(generator, 1, count) < 0.5, 0.0, -0.0)
    return torch.cat((bell, ties, torch.full_like(ties, -2.5), few, zeros)), min(top_k, count)


def draw_sample(
    device: torch.device | str, count: int = 1000, top_k: int = 50, slots: int = 9
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Arguments of `gumbel_draw`, of two pictures."""
    logits = _normal(_seeded(device), 2, slots, count) * 3
    index = torch.arange(2 * slots, device=device).reshape(2, slots)
    return logits, picture_keys((0, 1), device), index, top_k


def heads_sample(
    device: torch.device | str,
    dtype: torch.dtype,
    *,
    kv_cache: str,
    tokens: int = 5,
    heads: tuple[int, int] = (4, 4),
    head_dim: int = 64,
    splits: int = 2,
    norms: int = 2,
) -> tuple[Any, ...]:
    """Arguments of `place_heads`: tokens in two rows, of every other slot, and one head of zeros."""
    generator = _seeded(device)
    sums = _normal(generator, splits, tokens, sum(heads) + heads[1], head_dim)
    sums[:, 0, -1] = 0
    sums = sums.flatten(2).to(dtype if splits == 1 else torch.float32)
    weights = _normal(generator, 4, norms, head_dim).to(dtype).unbind()
    angle = _uniform(generator, tokens, head_dim // 2).repeat(1, 2) * 6
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    keys, values = (_stored(generator, (2, tokens, heads[1], head_dim), dtype, kv_cache, (tokens,) * 2) for _ in "kv")
    slots = torch.arange(1, 2 * tokens, 2, device=device)
    return sums, weights[:2], weights[2:], cos, sin, slots, keys, values


def gate_sample(
    device: torch.device | str, dtype: torch.dtype, tokens: int = 5, width: int = 700, splits: int = 2
) -> tuple[Tensor, torch.dtype]:
    """Arguments of `silu_gate`."""
    return _sums(_seeded(device), (splits, tokens, 2 * width), dtype), dtype


def add_sample(
    device: torch.device | str, dtype: torch.dtype, tokens: int = 5, size: int = 300, splits: int = 3
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Arguments of `add_norm`."""
    generator = _seeded(device)
    x, weight = _normal(generator, tokens + 1, size).to(dtype).split(tokens)
    return x, _sums(generator, (splits, tokens, size), dtype), weight[0], 1e-5


def _sums(generator: Generator, shape: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
    return _normal(generator, *shape).to(dtype if shape[0] == 1 else torch.float32)


def _seeded(device: torch.device | str) -> Generator:
    return Generator(device).manual_seed(0)


def _normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)


def _uniform(generator: Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)


def _whole(generator: Generator, low: int, end: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randint(low, end, shape, generator=generator, device=generator.device, dtype=dtype)
