"""The operations of a transformer block between its matmuls and its attention, in three Triton kernels.

A step of few tokens is a chain of small operations; on a large GPU the launches between them, not the bytes they read,
take the time. Each kernel here reads the partial sums of a matmul and writes what the next matmul or the attention
reads. Values are rounded where the plain operations round them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..errors import InputError
from .buffers import NORMED, Buffers, empty
from .kv_tensor import MAX_INT4, MAX_INT8, TINY, KVTensor
from .reference import HEAD_NORM_EPS

DTYPES = (torch.float32, torch.bfloat16)
GATE_BLOCK = 512
MIN_HALF, MAX_SIZE = 8, 2**15
# Added to and subtracted from a float32 of less than 2^22, it rounds to the nearest integer, ties to even.
ROUND = tl.constexpr(1.5 * 2**23)
MIN_SCALE, MAX_CODE_4, MAX_CODE_8 = tl.constexpr(TINY), tl.constexpr(MAX_INT4), tl.constexpr(MAX_INT8)
EPS = tl.constexpr(HEAD_NORM_EPS)


@triton.jit
def _rounded(x, dtype: tl.constexpr):
    """x rounded to `dtype`, in float32."""
    return x.to(dtype).to(tl.float32)


@triton.jit
def _add_splits(partial_sums, token, tokens, out, column, inside, dtype: tl.constexpr, SPLITS: tl.constexpr):
    """One token's sum of partial sums, rounded to `dtype`, in float32; 0 outside. All its loads are issued at once."""
    total = tl.load(partial_sums + token * out + column, mask=inside, other=0).to(tl.float32)
    for split in tl.static_range(1, SPLITS):
        total += tl.load(partial_sums + (split * tokens + token) * out + column, mask=inside, other=0).to(tl.float32)
    return _rounded(total, dtype)


@triton.jit
def _layer_norm(first, second, weight, bias, dim, dtype: tl.constexpr, HALF: tl.constexpr):
    """LayerNorm of both halves of a head, rounded to `dtype`."""
    mean = (tl.sum(first, 0) + tl.sum(second, 0)) / (2 * HALF)
    first, second = first - mean, second - mean
    scale = 1 / tl.sqrt((tl.sum(first * first, 0) + tl.sum(second * second, 0)) / (2 * HALF) + EPS)
    first = first * scale * tl.load(weight + dim).to(tl.float32) + tl.load(bias + dim).to(tl.float32)
    second = second * scale * tl.load(weight + HALF + dim).to(tl.float32) + tl.load(bias + HALF + dim).to(tl.float32)
    return _rounded(first, dtype), _rounded(second, dtype)


@triton.jit
def _rotate(one, other, cos, sin, dtype: tl.constexpr):
    """RoPE of one half of a head: times its cosines, plus the other half, already signed, times its sines."""
    return _rounded(_rounded(one * cos, dtype) + _rounded(other * sin, dtype), dtype)


@triton.jit
def _quantize_groups(half, scales, lows, HALF: tl.constexpr, GROUPS: tl.constexpr):
    """int4 codes of half a head; stores the scale and the lowest value of each of its GROUPS."""
    grouped, group = tl.reshape(half, [GROUPS, HALF // GROUPS]), tl.arange(0, GROUPS)
    low = tl.min(grouped, 1).to(lows.dtype.element_ty)
    low_value = low.to(tl.float32)
    scale = tl.maximum((tl.max(grouped, 1) - low_value) / MAX_CODE_4, MIN_SCALE).to(scales.dtype.element_ty)
    tl.store(scales + group, scale)
    tl.store(lows + group, low)
    codes = ((grouped - low_value[:, None]) / scale.to(tl.float32)[:, None] + ROUND) - ROUND
    return tl.reshape(tl.minimum(tl.maximum(codes, 0), MAX_CODE_4), [HALF]).to(tl.uint8)


@triton.jit
def _store_head(
    first, second, values, scales, lows, head, dim, HALF: tl.constexpr, INT8: tl.constexpr, GROUPS: tl.constexpr
):
    """Writes a head in the cache's kind; `head` is its index among all heads of the layer."""
    if GROUPS > 0:
        of_head = head * GROUPS
        low_bits = _quantize_groups(first, scales + of_head, lows + of_head, HALF, GROUPS // 2)
        of_head += GROUPS // 2
        high_bits = _quantize_groups(second, scales + of_head, lows + of_head, HALF, GROUPS // 2)
        tl.store(values + head * HALF + dim, low_bits | (high_bits << 4))
    else:
        place = values + head * 2 * HALF + dim
        if INT8:
            largest = tl.maximum(tl.max(tl.abs(first), 0), tl.max(tl.abs(second), 0))
            scale = tl.maximum(largest / MAX_CODE_8, MIN_SCALE)
            tl.store(scales + head, scale)
            first, second = (first / scale + ROUND) - ROUND, (second / scale + ROUND) - ROUND
        tl.store(place, first.to(values.dtype.element_ty))
        tl.store(place + HALF, second.to(values.dtype.element_ty))


@triton.jit(do_not_specialize=["tokens", "width", "length", "nodes"])
def _qkv_norm_rope_store(
    partial_sums,
    query_weight,
    query_bias,
    key_weight,
    key_bias,
    cos,
    sin,
    input_pos,
    query,
    keys,
    key_scales,
    key_lows,
    values,
    value_scales,
    value_lows,
    tokens,
    width,
    length,
    nodes,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    NORM_HEADS: tl.constexpr,
    NORM_KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    SPLITS: tl.constexpr,
    INT8: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """One head of one token, of the query, the key or the value."""
    token, head, dim = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, HALF)
    dtype = query.dtype.element_ty
    pos = tl.load(input_pos + token)
    out: tl.constexpr = (HEADS + 2 * KV_HEADS) * 2 * HALF
    column, inside = head * 2 * HALF + dim, dim < HALF
    first = _add_splits(partial_sums, token, tokens, out, column, inside, dtype, SPLITS)
    second = _add_splits(partial_sums, token, tokens, out, column + HALF, inside, dtype, SPLITS)
    if head < HEADS + KV_HEADS:
        if head < HEADS:
            part = head // NORM_HEADS * 2 * HALF
            first, second = _layer_norm(first, second, query_weight + part, query_bias + part, dim, dtype, HALF)
        else:
            part = (head - HEADS) // NORM_KV_HEADS * 2 * HALF
            first, second = _layer_norm(first, second, key_weight + part, key_bias + part, dim, dtype, HALF)
        angle = pos * 2 * HALF + dim
        cos_first, sin_first = tl.load(cos + angle).to(tl.float32), tl.load(sin + angle).to(tl.float32)
        cos_second, sin_second = tl.load(cos + angle + HALF).to(tl.float32), tl.load(sin + angle + HALF).to(tl.float32)
        rotated = _rotate(first, -second, cos_first, sin_first, dtype)
        second = _rotate(second, first, cos_second, sin_second, dtype)
        first = rotated
    after = token % width - (width - nodes)
    slot = (token // width * length + tl.where(after < 0, pos, length - nodes + after)) * KV_HEADS
    if head < HEADS:
        place = query + (token * HEADS + head) * 2 * HALF + dim
        tl.store(place, first.to(dtype))
        tl.store(place + HALF, second.to(dtype))
    elif head < HEADS + KV_HEADS:
        place_of = slot + head - HEADS
        _store_head(first, second, keys, key_scales, key_lows, place_of, dim, HALF, INT8, GROUPS)
    else:
        place_of = slot + head - HEADS - KV_HEADS
        _store_head(first, second, values, value_scales, value_lows, place_of, dim, HALF, INT8, GROUPS)


@triton.jit(do_not_specialize=["tokens"])
def _silu_gate(partial_sums, out, tokens, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr):
    """BLOCK values of one token."""
    token = tl.program_id(0).to(tl.int64)
    dtype = out.dtype.element_ty
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    gate = _add_splits(partial_sums, token, tokens, 2 * WIDTH, column, inside, dtype, SPLITS)
    up = _add_splits(partial_sums, token, tokens, 2 * WIDTH, column + WIDTH, inside, dtype, SPLITS)
    silu = _rounded(gate / (1 + tl.exp(-gate)), dtype)
    tl.store(out + token * WIDTH + column, (silu * up).to(dtype), mask=inside)


@triton.jit(do_not_specialize=["tokens", "eps"])
def _add_rms_norm(
    x, partial_sums, weight, added, normed, tokens, eps, SIZE: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr
):
    """One token."""
    token, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    dtype = added.dtype.element_ty
    inside, place = column < SIZE, token * SIZE + column
    result = _add_splits(partial_sums, token, tokens, SIZE, column, inside, dtype, SPLITS)
    total = _rounded(tl.load(x + place, mask=inside, other=0).to(tl.float32) + result, dtype)
    tl.store(added + place, total.to(dtype), mask=inside)
    scale = 1 / tl.sqrt(tl.sum(total * total, 0) / SIZE + eps)
    total = total * scale * tl.load(weight + column, mask=inside, other=0).to(tl.float32)
    tl.store(normed + place, total.to(dtype), mask=inside)


def qkv_norm_rope_store(
    partial_sums: Tensor,
    query_norm: tuple[Tensor, Tensor],
    key_norm: tuple[Tensor, Tensor],
    cos: Tensor,
    sin: Tensor,
    input_pos: Tensor,
    keys: KVTensor,
    values: KVTensor,
    nodes: int = 0,
    buffers: Buffers | None = None,
    warps: int = 1,
) -> tuple[Tensor, KVTensor, KVTensor]:
    """Queries [tokens,heads,head_dim] of partial sums; stores keys and values. See the reference.

    A program of `warps` has one head of one token. Raises InputError unless head_dim is a power of two from 16 on and
    the dtype float32 or bfloat16.
    """
    splits, tokens, out = _check(partial_sums, cos.dtype)
    kv_heads, head_dim = keys.values.shape[2], cos.shape[1]
    half, heads = head_dim // 2, out // head_dim - 2 * kv_heads
    if half < MIN_HALF or head_dim & (head_dim - 1):
        raise InputError(
            f"head_dim is {head_dim}; expected a power of two from {2 * MIN_HALF} on: use the reference for others"
        )
    if not all(tensor.is_contiguous() for stored in (keys, values) for tensor in stored.tensors):
        raise InputError("the layer's cache is not contiguous; expected contiguous tensors")
    query = empty(buffers, "query", (tokens, heads, head_dim), cos.dtype, cos.device)
    inputs = (part.contiguous() for part in (*query_norm, *key_norm, cos, sin, input_pos))
    norm_heads = {"NORM_HEADS": heads // len(query_norm[0]), "NORM_KV_HEADS": kv_heads // len(key_norm[0])}
    sizes = {"HEADS": heads, "KV_HEADS": kv_heads, "HALF": half, "SPLITS": splits, "num_warps": warps, **norm_heads}
    reach = input_pos.shape[1], keys.values.shape[1], nodes
    operands = partial_sums, *inputs, query, *keys.operands, *values.operands, tokens, *reach
    _qkv_norm_rope_store[tokens, heads + 2 * kv_heads](*operands, INT8=keys.is_int8, GROUPS=keys.groups, **sizes)
    return query, keys, values


def silu_gate(
    partial_sums: Tensor, dtype: torch.dtype, buffers: Buffers | None = None, block: int = GATE_BLOCK, warps: int = 4
) -> Tensor:
    """silu(gate) · up [tokens,width] in float32 or bfloat16 of partial sums. See the reference.

    A program of `warps` has `block` values of one token. Raises InputError for other dtypes.
    """
    splits, tokens, out = _check(partial_sums, dtype)
    gated = empty(buffers, "gated", (tokens, out // 2), dtype, partial_sums.device)
    grid = tokens, triton.cdiv(out // 2, block)
    _silu_gate[grid](partial_sums, gated, tokens, WIDTH=out // 2, BLOCK=block, SPLITS=splits, num_warps=warps)
    return gated


def add_rms_norm(
    x: Tensor,
    partial_sums: Tensor,
    weight: Tensor,
    eps: float,
    buffers: Buffers | None = None,
    warps: int | None = None,
) -> tuple[Tensor, Tensor]:
    """x [tokens,size] plus the sum of partial sums, and the RMSNorm of that. See the reference.

    A program of `warps` (None: by the size) has one token. Raises InputError unless the dtype is float32 or bfloat16
    and the size at most 32,768.
    """
    splits, tokens, size = _check(partial_sums, x.dtype)
    if x.shape != (tokens, size) or size > MAX_SIZE:
        raise InputError(
            f"x {list(x.shape)} and partial sums {list(partial_sums.shape)}; expected [tokens,size] and "
            f"[splits,tokens,size], size at most {MAX_SIZE}: use the reference for others"
        )
    normed, *sums = (empty(buffers, name, (tokens, size), x.dtype, x.device) for name in (NORMED, "sum", "other sum"))
    added = sums[x.data_ptr() == sums[0].data_ptr()]
    block = triton.next_power_of_2(size)
    warps = max(1, min(16, block // 256)) if warps is None else warps
    sizes = {"SIZE": size, "BLOCK": block, "SPLITS": splits, "num_warps": warps}
    _add_rms_norm[(tokens,)](x.contiguous(), partial_sums, weight, added, normed, tokens, eps, **sizes)
    return added, normed


def _check(partial_sums: Tensor, dtype: torch.dtype) -> tuple[int, int, int]:
    if partial_sums.dim() != 3 or not partial_sums.is_contiguous() or dtype not in DTYPES:
        raise InputError(
            f"partial sums {list(partial_sums.shape)} to be rounded to {dtype}; expected [splits,tokens,out], "
            f"contiguous, and one of {', '.join(map(str, DTYPES))}: use the reference for others"
        )
    splits, tokens, out = partial_sums.shape
    return splits, tokens, out
