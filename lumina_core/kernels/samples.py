"""Random arguments of every kernel, generated on the device, for its self-tests."""

from typing import Any

import torch
from torch import Generator, Tensor

from .kv_tensor import INT4, INT8, KVTensor
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
    corrupt: bool = True,
) -> tuple[Tensor, KVTensor, KVTensor, Tensor, int]:
    """Arguments of `window_attention`: one row for each number of `filled` slots, whose last `width` are the window's.

    `heads` are those of the query and of the keys; `kv_cache` is one of KV_CACHES. With `corrupt`, the slots after the
    filled ones are infinite, or very large where quantised, which exposes a kernel that reads them. The reference
    returns NaN for infinite ones.
    """
    generator = _seeded(device)
    query = _normal(generator, len(filled), width, heads[0], head_dim).to(dtype)
    valid = filled if corrupt else (length,) * len(filled)
    shape = (len(filled), length, heads[1], head_dim)
    keys, values = (_kv_tensor(generator, shape, dtype, kv_cache, valid) for _ in "kv")
    input_pos = torch.tensor(filled, device=device)[:, None] - width + torch.arange(width, device=device)
    return query, keys, values, input_pos, max(filled)


def _kv_tensor(
    generator: Generator, shape: tuple[int, ...], dtype: torch.dtype, kind: str, valid: tuple[int, ...]
) -> KVTensor:
    if kind == INT8:
        codes = _integers(generator, -127, 128, shape, torch.int8)
        scales = _uniform(generator, *shape[:-1], 1) * 0.03 + 1e-3
        return KVTensor(codes, _corrupt(scales, valid, 1e6))
    if kind == INT4:
        *rest, head_dim = shape
        codes = _integers(generator, 0, 256, (*rest, head_dim // 2), torch.uint8)
        groups = (*rest, 2 * max(1, head_dim // 64))
        scales = (_uniform(generator, *groups) * 0.2 + 1e-2).bfloat16()
        return KVTensor(codes, _corrupt(scales, valid, 1e6), _normal(generator, *groups).bfloat16())
    return KVTensor(_corrupt(_normal(generator, *shape).to(dtype), valid, torch.inf))


def _corrupt(rows: Tensor, valid: tuple[int, ...], value: float) -> Tensor:
    for row, end in zip(rows, valid, strict=True):
        row[end:] = value
    return rows


def int4_sample(
    device: torch.device | str, dtype: torch.dtype, rows: int = 5, in_features: int = 256, out_features: int = 96
) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments of `int4_matmul`."""
    generator = _seeded(device)
    groups = -(-in_features // GROUP_SIZE)
    x = _normal(generator, rows, in_features).to(dtype)
    packed = _integers(generator, 0, 256, (out_features, groups * GROUP_SIZE // 2), torch.uint8)
    scale = _uniform(generator, out_features, groups) * 0.01 + 1e-3
    zero = _normal(generator, out_features, groups) * 0.01
    return x, packed, torch.stack((scale, zero), -1).bfloat16()


def int8_sample(
    device: torch.device | str, dtype: torch.dtype, rows: int = 5, in_features: int = 256, out_features: int = 96
) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments of `int8_matmul`."""
    generator = _seeded(device)
    x = _normal(generator, rows, in_features).to(dtype)
    codes = _integers(generator, -127, 128, (out_features, in_features), torch.int8)
    return x, codes, _uniform(generator, out_features) * 1e-3 + 1e-4


def topk_sample(device: torch.device | str, count: int = 1000, top_k: int = 50) -> tuple[Tensor, int]:
    """Arguments of `topk_cut`: rows of normal values, of many ties, of one value, of −inf, and of both zeros."""
    generator = _seeded(device)
    normal = _normal(generator, 2, count) * 3
    ties = _integers(generator, -3, 4, (1, count), torch.int64).float()
    few = torch.where(_uniform(generator, 1, count) < 0.02, normal[:1], -torch.inf)
    zeros = torch.where(_uniform(generator, 1, count) < 0.5, 0.0, -0.0)
    return torch.cat((normal, ties, torch.full_like(ties, -2.5), few, zeros)), min(top_k, count)


def draw_sample(
    device: torch.device | str, count: int = 1000, top_k: int = 50, slots: int = 9
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Arguments of `gumbel_draw`, of two pictures."""
    logits = _normal(_seeded(device), 2, slots, count) * 3
    index = torch.arange(2 * slots, device=device).reshape(2, slots)
    return logits, picture_keys((0, 1), device), index, top_k


def qkv_sample(
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
    """Arguments of `qkv_norm_rope_store`: tokens at every other slot of two rows, and one head of zeros."""
    generator = _seeded(device)
    sums = _normal(generator, splits, tokens, sum(heads) + heads[1], head_dim)
    sums[:, 0, -1] = 0
    sums = sums.flatten(2).to(dtype if splits == 1 else torch.float32)
    weights = _normal(generator, 4, norms, head_dim).to(dtype).unbind()
    angle = _uniform(generator, tokens, head_dim // 2).repeat(1, 2) * 6
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    keys, values = (
        _kv_tensor(generator, (2, tokens, heads[1], head_dim), dtype, kv_cache, (tokens,) * 2) for _ in "kv"
    )
    slots = torch.arange(1, 2 * tokens, 2, device=device)
    return sums, weights[:2], weights[2:], cos, sin, slots, keys, values


def silu_gate_sample(
    device: torch.device | str, dtype: torch.dtype, tokens: int = 5, width: int = 700, splits: int = 2
) -> tuple[Tensor, torch.dtype]:
    """Arguments of `silu_gate`."""
    return _partial_sums(_seeded(device), (splits, tokens, 2 * width), dtype), dtype


def add_rms_norm_sample(
    device: torch.device | str, dtype: torch.dtype, tokens: int = 5, size: int = 300, splits: int = 3
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Arguments of `add_rms_norm`."""
    generator = _seeded(device)
    x, weight = _normal(generator, tokens + 1, size).to(dtype).split(tokens)
    return x, _partial_sums(generator, (splits, tokens, size), dtype), weight[0], 1e-5


def _partial_sums(generator: Generator, shape: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
    return _normal(generator, *shape).to(dtype if shape[0] == 1 else torch.float32)


def _seeded(device: torch.device | str) -> Generator:
    return Generator(device).manual_seed(0)


def _normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)


def _uniform(generator: Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)


def _integers(generator: Generator, low: int, end: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randint(low, end, shape, generator=generator, device=generator.device, dtype=dtype)
