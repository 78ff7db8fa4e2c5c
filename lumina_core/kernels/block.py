"""What a block of the transformer does between its products and its attention, in three Triton kernels.

A step of few tokens is a chain of small operations; on a large GPU the time between them, not what they read, is what
a step would take. Each kernel here begins with the partial sums of a product and ends with what the next product or the
attention reads. Numbers are rounded where the plain operations round them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..errors import InputError
from .kv_tensor import MOST_INT4, MOST_INT8, TINY, Stored, parts_or_numbers
from .reference import HEAD_NORM_EPS

FORMATS = (torch.float32, torch.bfloat16)
GATE_BLOCK = 512
LEAST_HALF, MOST_SIZE = 8, 2**15
# Added to and taken from a float32 of less than 2^22, it leaves the nearest integer, of two as near the even one.
ROUNDS = tl.constexpr(1.5 * 2**23)
LEAST_SCALE, HIGHEST_4, HIGHEST_8 = tl.constexpr(TINY), tl.constexpr(MOST_INT4), tl.constexpr(MOST_INT8)
EPS = tl.constexpr(HEAD_NORM_EPS)


@triton.jit
def _rounded(x, dtype: tl.constexpr):
    """x in float32, rounded to `dtype`."""
    return x.to(dtype).to(tl.float32)


@triton.jit
def _joined(partial_sums, token, tokens, out, column, inside, dtype: tl.constexpr, SPLITS: tl.constexpr):
    """The product of one token in float32, rounded to `dtype`; 0 outside. All its parts are asked for at once."""
    total = tl.load(partial_sums + token * out + column, mask=inside, other=0).to(tl.float32)
    for split in tl.static_range(1, SPLITS):
        total += tl.load(partial_sums + (split * tokens + token) * out + column, mask=inside, other=0).to(tl.float32)
    return _rounded(total, dtype)


@triton.jit
def _normed(first, second, weight, bias, dim, dtype: tl.constexpr, HALF: tl.constexpr):
    """Both halves of a head after LayerNorm, rounded to `dtype`."""
    mean = (tl.sum(first, 0) + tl.sum(second, 0)) / (2 * HALF)
    first, second = first - mean, second - mean
    scale = 1 / tl.sqrt((tl.sum(first * first, 0) + tl.sum(second * second, 0)) / (2 * HALF) + EPS)
    first = first * scale * tl.load(weight + dim).to(tl.float32) + tl.load(bias + dim).to(tl.float32)
    second = second * scale * tl.load(weight + HALF + dim).to(tl.float32) + tl.load(bias + HALF + dim).to(tl.float32)
    return _rounded(first, dtype), _rounded(second, dtype)


@triton.jit
def _turned(one, other, cos, sin, dtype: tl.constexpr):
    """A half of a head times its cosines and the other one, its sign already right, times its sines."""
    return _rounded(_rounded(one * cos, dtype) + _rounded(other * sin, dtype), dtype)


@triton.jit
def _codes_of_groups(half, scales, lowest, HALF: tl.constexpr, GROUPS: tl.constexpr):
    """4-bit codes of half a head; the scale and lowest number of each of its GROUPS are stored."""
    numbers, group = tl.reshape(half, [GROUPS, HALF // GROUPS]), tl.arange(0, GROUPS)
    low = tl.min(numbers, 1).to(lowest.dtype.element_ty)
    low_number = low.to(tl.float32)
    scale = tl.maximum((tl.max(numbers, 1) - low_number) / HIGHEST_4, LEAST_SCALE).to(scales.dtype.element_ty)
    tl.store(scales + group, scale)
    tl.store(lowest + group, low)
    codes = ((numbers - low_number[:, None]) / scale.to(tl.float32)[:, None] + ROUNDS) - ROUNDS
    return tl.reshape(tl.minimum(tl.maximum(codes, 0), HIGHEST_4), [HALF]).to(tl.uint8)


@triton.jit
def _store_head(
    first,
    second,
    numbers,
    scales,
    lowest,
    head,
    dim,
    HALF: tl.constexpr,
    SCALED: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """Writes a head, whose place among all heads of the layer is `head`, as the cache stores it."""
    if GROUPS > 0:
        of_head = head * GROUPS
        low_bits = _codes_of_groups(first, scales + of_head, lowest + of_head, HALF, GROUPS // 2)
        of_head += GROUPS // 2
        high_bits = _codes_of_groups(second, scales + of_head, lowest + of_head, HALF, GROUPS // 2)
        tl.store(numbers + head * HALF + dim, low_bits | (high_bits << 4))
    else:
        place = numbers + head * 2 * HALF + dim
        if SCALED:
            largest = tl.maximum(tl.max(tl.abs(first), 0), tl.max(tl.abs(second), 0))
            scale = tl.maximum(largest / HIGHEST_8, LEAST_SCALE)
            tl.store(scales + head, scale)
            first, second = (first / scale + ROUNDS) - ROUNDS, (second / scale + ROUNDS) - ROUNDS
        tl.store(place, first.to(numbers.dtype.element_ty))
        tl.store(place + HALF, second.to(numbers.dtype.element_ty))


@triton.jit(do_not_specialize=["tokens"])
def _place_head(
    partial_sums,
    query_weight,
    query_bias,
    key_weight,
    key_bias,
    cos,
    sin,
    slots,
    query,
    keys,
    key_scales,
    key_lowest,
    values,
    value_scales,
    value_lowest,
    tokens,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    NORM_HEADS: tl.constexpr,
    NORM_KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    SPLITS: tl.constexpr,
    SCALED: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """One head of one token: a query's, a key's or a value's."""
    token, head, dim = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, HALF)
    dtype = query.dtype.element_ty
    out: tl.constexpr = (HEADS + 2 * KV_HEADS) * 2 * HALF
    column, inside = head * 2 * HALF + dim, dim < HALF
    first = _joined(partial_sums, token, tokens, out, column, inside, dtype, SPLITS)
    second = _joined(partial_sums, token, tokens, out, column + HALF, inside, dtype, SPLITS)
    if head < HEADS + KV_HEADS:
        if head < HEADS:
            part = head // NORM_HEADS * 2 * HALF
            first, second = _normed(first, second, query_weight + part, query_bias + part, dim, dtype, HALF)
        else:
            part = (head - HEADS) // NORM_KV_HEADS * 2 * HALF
            first, second = _normed(first, second, key_weight + part, key_bias + part, dim, dtype, HALF)
        turn = token * 2 * HALF + dim
        cos_first, sin_first = tl.load(cos + turn).to(tl.float32), tl.load(sin + turn).to(tl.float32)
        cos_second, sin_second = tl.load(cos + turn + HALF).to(tl.float32), tl.load(sin + turn + HALF).to(tl.float32)
        turned = _turned(first, -second, cos_first, sin_first, dtype)
        second = _turned(second, first, cos_second, sin_second, dtype)
        first = turned
    slot = tl.load(slots + token).to(tl.int64) * KV_HEADS
    if head < HEADS:
        place = query + (token * HEADS + head) * 2 * HALF + dim
        tl.store(place, first.to(dtype))
        tl.store(place + HALF, second.to(dtype))
    elif head < HEADS + KV_HEADS:
        place_of = slot + head - HEADS
        _store_head(first, second, keys, key_scales, key_lowest, place_of, dim, HALF, SCALED, GROUPS)
    else:
        place_of = slot + head - HEADS - KV_HEADS
        _store_head(first, second, values, value_scales, value_lowest, place_of, dim, HALF, SCALED, GROUPS)


@triton.jit(do_not_specialize=["tokens"])
def _gate_block(partial_sums, out, tokens, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr):
    """Some numbers of one token."""
    token = tl.program_id(0).to(tl.int64)
    dtype = out.dtype.element_ty
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    gate = _joined(partial_sums, token, tokens, 2 * WIDTH, column, inside, dtype, SPLITS)
    up = _joined(partial_sums, token, tokens, 2 * WIDTH, column + WIDTH, inside, dtype, SPLITS)
    silu = _rounded(gate / (1 + tl.exp(-gate)), dtype)
    tl.store(out + token * WIDTH + column, (silu * up).to(dtype), mask=inside)


@triton.jit(do_not_specialize=["tokens", "eps"])
def _add_row(
    x,
    partial_sums,
    weight,
    added,
    normed,
    tokens,
    eps,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """One token."""
    token, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    dtype = added.dtype.element_ty
    inside, place = column < SIZE, token * SIZE + column
    product = _joined(partial_sums, token, tokens, SIZE, column, inside, dtype, SPLITS)
    total = _rounded(tl.load(x + place, mask=inside, other=0).to(tl.float32) + product, dtype)
    tl.store(added + place, total.to(dtype), mask=inside)
    scale = 1 / tl.sqrt(tl.sum(total * total, 0) / SIZE + eps)
    total = total * scale * tl.load(weight + column, mask=inside, other=0).to(tl.float32)
    tl.store(normed + place, total.to(dtype), mask=inside)


def place_heads(
    partial_sums: Tensor,
    query_norm: tuple[Tensor, Tensor],
    key_norm: tuple[Tensor, Tensor],
    cos: Tensor,
    sin: Tensor,
    slots: Tensor,
    keys: Stored,
    values: Stored,
    warps: int = 1,
) -> tuple[Tensor, Stored, Stored]:
    """Queries [tokens,heads,head_dim] of partial sums; keys and values go to the slots. As its twin of `eager`.

    A program, of so many `warps`, has one head of one token. head_dim is a power of two from 16 on; formats are float32
    and bfloat16. Raises InputError for others.
    """
    splits, tokens, out = _check(partial_sums, cos.dtype)
    kv_heads, head_dim = keys.numbers.shape[2], cos.shape[1]
    half, heads = head_dim // 2, out // head_dim - 2 * kv_heads
    if half < LEAST_HALF or head_dim & (head_dim - 1):
        raise InputError(
            f"heads of {head_dim} numbers; expected a power of two from {2 * LEAST_HALF} on: use the eager twin for "
            "others"
        )
    if not all(part.is_contiguous() for stored in (keys, values) for part in stored.parts):
        raise InputError("a cache with gaps; expected a contiguous layer of one")
    query = torch.empty(tokens, heads, head_dim, dtype=cos.dtype, device=cos.device)
    _place_head[tokens, heads + 2 * kv_heads](
        partial_sums,
        *(part.contiguous() for part in (*query_norm, *key_norm, cos, sin, slots)),
        query,
        *parts_or_numbers(keys),
        *parts_or_numbers(values),
        tokens,
        HEADS=heads,
        KV_HEADS=kv_heads,
        NORM_HEADS=heads // len(query_norm[0]),
        NORM_KV_HEADS=kv_heads // len(key_norm[0]),
        HALF=half,
        SPLITS=splits,
        SCALED=keys.is_scaled,
        GROUPS=keys.groups,
        num_warps=warps,
    )
    return query, keys, values


def silu_gate(partial_sums: Tensor, dtype: torch.dtype, block: int = GATE_BLOCK, warps: int = 4) -> Tensor:
    """silu(gate) · up [tokens,width] in float32 or bfloat16 of partial sums. As its twin of `eager`.

    A program, of so many `warps`, has `block` numbers of one token. Raises InputError for other formats.
    """
    splits, tokens, out = _check(partial_sums, dtype)
    gated = torch.empty(tokens, out // 2, dtype=dtype, device=partial_sums.device)
    grid = tokens, triton.cdiv(out // 2, block)
    _gate_block[grid](partial_sums, gated, tokens, WIDTH=out // 2, BLOCK=block, SPLITS=splits, num_warps=warps)
    return gated


def add_norm(
    x: Tensor, partial_sums: Tensor, weight: Tensor, eps: float, warps: int | None = None
) -> tuple[Tensor, Tensor]:
    """x [tokens,size] plus partial sums, and the RMSNorm of that. As its twin of `eager`.

    A program, of so many `warps` (None: by the size), has one token. Formats are float32 and bfloat16, size at most
    32,768. Raises InputError for other formats and sizes.
    """
    splits, tokens, size = _check(partial_sums, x.dtype)
    if x.shape != (tokens, size) or size > MOST_SIZE:
        raise InputError(
            f"x {list(x.shape)} and partial sums {list(partial_sums.shape)}; expected [tokens,size] and "
            f"[splits,tokens,size], size at most {MOST_SIZE}: use the eager twin for others"
        )
    added, normed = torch.empty(2, tokens, size, dtype=x.dtype, device=x.device)
    block = triton.next_power_of_2(size)
    warps = max(1, min(16, block // 256)) if warps is None else warps
    sizes = {"SIZE": size, "BLOCK": block, "SPLITS": splits, "num_warps": warps}
    _add_row[(tokens,)](x.contiguous(), partial_sums, weight, added, normed, tokens, eps, **sizes)
    return added, normed


def _check(partial_sums: Tensor, dtype: torch.dtype) -> tuple[int, int, int]:
    """The shape of partial sums."""
    if partial_sums.dim() != 3 or not partial_sums.is_contiguous() or dtype not in FORMATS:
        raise InputError(
            f"partial sums {list(partial_sums.shape)} to be rounded to {dtype}; expected [splits,tokens,out], "
            f"contiguous, and one of {', '.join(map(str, FORMATS))}: use the eager twin for others"
        )
    splits, tokens, out = partial_sums.shape
    return splits, tokens, out
