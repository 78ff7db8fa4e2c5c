"""Random arguments of every kernel, generated on the device, for its self-tests."""

from typing import Any

import torch
from torch import Generator, Tensor

from .draft_tree import DraftTree
from .kv_tensor import INT4, INT8, KVTensor
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
    tree: int = 0,
) -> tuple[Tensor, KVTensor, KVTensor, Tensor, int, int, DraftTree | None, Tensor | None]:
    """Arguments of `window_attention`: one row for each number of `filled` slots, whose last `width` are the window's.

    `heads` are those of the query and of the keys; `kv_cache` is one of KV_CACHES. With `corrupt`, the slots after the
    filled ones are infinite, or very large where quantised, which exposes a kernel that reads them. The reference
    returns NaN for infinite ones. The queries of a draft tree of so many nodes follow those of the window.
    """
    generator, nodes = seeded(device), DraftTree.of(tree, width)
    query = normal(generator, len(filled), width + len(nodes), heads[0], head_dim).to(dtype)
    valid = filled if corrupt else (length,) * len(filled)
    shape = (len(filled), length, heads[1], head_dim)
    keys, values = (kv_tensor(generator, shape, dtype, kv_cache, valid, len(nodes)) for _ in "kv")
    depths = torch.cat((torch.arange(width, device=device), nodes.depths(device)))
    input_pos = torch.tensor(filled, device=device)[:, None] - width + depths
    of_tree = (nodes, nodes.table(device)) if tree else (None, None)
    return query, keys, values, input_pos, max(filled), width + len(nodes), *of_tree


def kv_tensor(
    generator: Generator, shape: tuple[int, ...], dtype: torch.dtype, kind: str, valid: tuple[int, ...], last: int = 0
) -> KVTensor:
    """Keys or values of a shape as a cache of one of KV_CACHES stores them.

    Slots after the `valid` ones of each row, but the `last`, are corrupted; without any, none.
    """
    if kind == INT8:
        codes = integers(generator, -127, 128, shape, torch.int8)
        scales = uniform(generator, *shape[:-1], 1) * 0.03 + 1e-3
        return KVTensor(codes, _corrupt(scales, valid, 1e6, last))
    if kind == INT4:
        *rest, head_dim = shape
        codes = integers(generator, 0, 256, (*rest, head_dim // 2), torch.uint8)
        groups = (*rest, 2 * max(1, head_dim // 64))
        scales = (uniform(generator, *groups) * 0.2 + 1e-2).bfloat16()
        return KVTensor(codes, _corrupt(scales, valid, 1e6, last), normal(generator, *groups).bfloat16())
    return KVTensor(_corrupt(normal(generator, *shape).to(dtype), valid, torch.inf, last))


def _corrupt(rows: Tensor, valid: tuple[int, ...], value: float, last: int) -> Tensor:
    for row, end in zip(rows, valid, strict=False):
        row[end : len(row) - last] = value
    return rows


def int4_sample(
    device: torch.device | str, dtype: torch.dtype, rows: int = 5, in_features: int = 256, out_features: int = 96
) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments of `int4_matmul`."""
    generator = seeded(device)
    groups = -(-in_features // GROUP_SIZE)
    x = normal(generator, rows, in_features).to(dtype)
    packed = integers(generator, 0, 256, (out_features, groups * GROUP_SIZE // 2), torch.uint8)
    scale = uniform(generator, out_features, groups) * 0.01 + 1e-3
    zero = normal(generator, out_features, groups) * 0.01
    return x, packed, torch.stack((scale, zero), -1).bfloat16()


def int8_sample(
    device: torch.device | str, dtype: torch.dtype, rows: int = 5, in_features: int = 256, out_features: int = 96
) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments of `int8_matmul`."""
    generator = seeded(device)
    x = normal(generator, rows, in_features).to(dtype)
    codes = integers(generator, -127, 128, (out_features, in_features), torch.int8)
    return x, codes, uniform(generator, out_features) * 1e-3 + 1e-4


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
    nodes: int = 0,
) -> tuple[Any, ...]:
    """Arguments of `qkv_norm_rope_store`: tokens of two rows, from different positions on, and one head of zeros.

    The last `nodes` tokens of a row are those of a draft tree.
    """
    generator, rows = seeded(device), 2
    sums = normal(generator, splits, rows * tokens, sum(heads) + heads[1], head_dim)
    sums[:, 0, -1] = 0
    sums = sums.flatten(2).to(dtype if splits == 1 else torch.float32)
    weights = normal(generator, 4, norms, head_dim).to(dtype).unbind()
    length = 2 * tokens + 1 + nodes
    angle = uniform(generator, length, head_dim // 2).repeat(1, 2) * 6
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    keys, values = (
        kv_tensor(generator, (rows, length, heads[1], head_dim), dtype, kv_cache, (length,) * rows) for _ in "kv"
    )
    input_pos = torch.tensor([[1], [tokens]], device=device) + torch.arange(tokens, device=device)
    return sums, weights[:2], weights[2:], cos, sin, input_pos, keys, values, nodes


def silu_gate_sample(
    device: torch.device | str, dtype: torch.dtype, tokens: int = 5, width: int = 700, splits: int = 2
) -> tuple[Tensor, torch.dtype]:
    """Arguments of `silu_gate`."""
    return _partial_sums(seeded(device), (splits, tokens, 2 * width), dtype), dtype


def add_rms_norm_sample(
    device: torch.device | str, dtype: torch.dtype, tokens: int = 5, size: int = 300, splits: int = 3
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Arguments of `add_rms_norm`."""
    generator = seeded(device)
    x, weight = normal(generator, tokens + 1, size).to(dtype).split(tokens)
    return x, _partial_sums(generator, (splits, tokens, size), dtype), weight[0], 1e-5


def _partial_sums(generator: Generator, shape: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
    return normal(generator, *shape).to(dtype if shape[0] == 1 else torch.float32)


def seeded(device: torch.device | str) -> Generator:
    return Generator(device).manual_seed(0)


def normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)


def uniform(generator: Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)


def integers(generator: Generator, low: int, end: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randint(low, end, shape, generator=generator, device=generator.device, dtype=dtype)
