"""Small inputs of every kernel's form, on which it is tried against its twin."""

from typing import Any

import torch
from torch import Tensor

from ..noise import picture_keys
from .eager import GROUP_SIZE
from .stored import Stored


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
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(len(filled), width, heads[0], head_dim, generator=generator)
    ends_of_good = filled if spoilt else (length,) * len(filled)
    shape = (len(filled), length, heads[1], head_dim)
    keys, values = (_stored(generator, shape, dtype, kv_cache, ends_of_good) for _ in "kv")
    ends = torch.tensor(filled)[:, None]
    input_pos = ends - width + torch.arange(width)
    moved = (_to(stored, device) for stored in (keys, values))
    return query.to(device, dtype), *moved, input_pos.to(device), max(filled)  # type: ignore[return-value]


def _stored(
    generator: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype, kv_cache: str, filled: tuple[int, ...]
) -> Stored:
    if kv_cache == "auto":
        numbers = torch.randn(shape, generator=generator).to(dtype)
        return Stored(_spoilt(numbers, filled, torch.inf))
    if kv_cache == "int8":
        codes = torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)
        scales = torch.rand(*shape[:-1], 1, generator=generator) * 0.03 + 1e-3
        return Stored(codes, _spoilt(scales, filled, 1e6))
    *rest, head_dim = shape
    codes = torch.randint(0, 256, (*rest, head_dim // 2), generator=generator, dtype=torch.uint8)
    groups = (*rest, 2 * max(1, head_dim // 64))
    scales = (torch.rand(groups, generator=generator) * 0.2 + 1e-2).bfloat16()
    lowest = torch.randn(groups, generator=generator).bfloat16()
    return Stored(codes, _spoilt(scales, filled, 1e6), lowest)


def _spoilt(numbers: Tensor, filled: tuple[int, ...], value: float) -> Tensor:
    for row, end in zip(numbers, filled, strict=True):
        row[end:] = value
    return numbers


def _to(stored: Stored, device: torch.device | str) -> Stored:
    parts = (stored.numbers, stored.scales, stored.lowest)
    return Stored(*(None if part is None else part.to(device) for part in parts))  # type: ignore[arg-type]


def int4_sample(
    device: torch.device | str, dtype: torch.dtype, rows: int = 5, in_features: int = 256, out_features: int = 96
) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments of `int4_matmul`."""
    generator = torch.Generator().manual_seed(0)
    groups = -(-in_features // GROUP_SIZE)
    x = torch.randn(rows, in_features, generator=generator).to(dtype)
    packed = torch.randint(0, 256, (out_features, groups * GROUP_SIZE // 2), generator=generator, dtype=torch.uint8)
    scale = torch.rand(out_features, groups, generator=generator) * 0.01 + 1e-3
    zero = torch.randn(out_features, groups, generator=generator) * 0.01
    return x.to(device), packed.to(device), torch.stack((scale, zero), -1).bfloat16().to(device)


def int8_sample(
    device: torch.device | str, dtype: torch.dtype, rows: int = 5, in_features: int = 256, out_features: int = 96
) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments of `int8_matmul`."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, in_features, generator=generator).to(dtype)
    codes = torch.randint(-127, 128, (out_features, in_features), generator=generator, dtype=torch.int8)
    scale = torch.rand(out_features, generator=generator) * 1e-3 + 1e-4
    return x.to(device), codes.to(device), scale.to(device)


def logits_sample(device: torch.device | str, count: int = 1000, top_k: int = 50) -> tuple[Tensor, int]:
    """Arguments of `topk_cut`: bell-shaped rows, many ties, all the same, −inf and both zeros."""
    generator = torch.Generator().manual_seed(0)
    bell = torch.randn(2, count, generator=generator) * 3
    ties = torch.randint(-3, 4, (1, count), generator=generator).float()
    few = torch.where(torch.rand(1, count, generator=generator) < 0.02, bell[:1], -torch.inf)
    zeros = torch.where(torch.rand(1, count, generator=generator) < 0.5, 0.0, -0.0)
    return torch.cat((bell, ties, torch.full((1, count), -2.5), few, zeros)).to(device), min(top_k, count)


def draw_sample(device: torch.device | str, count: int = 1000, top_k: int = 50) -> tuple[Tensor, Tensor, Tensor, int]:
    """Arguments of `gumbel_draw`."""
    logits = torch.randn(2, 9, count, generator=torch.Generator().manual_seed(0)) * 3
    index = torch.arange(18).reshape(2, 9)
    return logits.to(device), picture_keys((0, 1), device), index.to(device), top_k


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
    generator = torch.Generator().manual_seed(0)
    sums = torch.randn(splits, tokens, sum(heads) + heads[1], head_dim, generator=generator)
    sums[:, 0, -1] = 0
    sums = sums.flatten(2).to(device, dtype if splits == 1 else torch.float32)
    weights = torch.randn(4, norms, head_dim, generator=generator).to(device, dtype).unbind()
    angle = torch.rand(tokens, head_dim // 2, generator=generator).repeat(1, 2) * 6
    cos, sin = angle.cos().to(device, dtype), angle.sin().to(device, dtype)
    keys, values = (_stored(generator, (2, tokens, heads[1], head_dim), dtype, kv_cache, (tokens,) * 2) for _ in "kv")
    slots = torch.arange(1, 2 * tokens, 2, device=device)
    return sums, weights[:2], weights[2:], cos, sin, slots, _to(keys, device), _to(values, device)


def gate_sample(
    device: torch.device | str, dtype: torch.dtype, tokens: int = 5, width: int = 700, splits: int = 2
) -> tuple[Tensor, torch.dtype]:
    """Arguments of `silu_gate`."""
    return _sums((splits, tokens, 2 * width), device, dtype), dtype


def add_sample(
    device: torch.device | str, dtype: torch.dtype, tokens: int = 5, size: int = 300, splits: int = 3
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Arguments of `add_norm`."""
    rows = torch.randn(tokens + 1, size, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    x, weight = rows.split(tokens)
    return x, _sums((splits, tokens, size), device, dtype), weight[0], 1e-5


def _sums(shape: tuple[int, int, int], device: torch.device | str, dtype: torch.dtype) -> Tensor:
    sums = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return sums.to(device, dtype if shape[0] == 1 else torch.float32)
