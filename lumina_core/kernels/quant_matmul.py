"""Products with weights in 4 and 8 bits that are given back in registers, in a Triton kernel.

The weights are the numbers that a scheme's `dequantize` gives, rounded to the format of x: only the order in which the
float32 sums are taken differs. How the inputs are split over programs depends on the weight alone.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..errors import InputError
from .eager import GROUP_SIZE, LOWEST_CODE, join
from .product import dot

LEAST_ROWS, LARGEST_TILE = 16, {torch.bfloat16: 128, torch.float32: 32}
BLOCK_OUT = 64
# So many programs keep a large GPU busy; narrower weights are split along their inputs to make as many.
PROGRAMS = 384
# Four bytes at a time, their low or high halves as bfloat16: put under the byte 0x43, a code c is the number 128 + c.
LOW_HALVES, HIGH_HALVES = (
    tl.constexpr(
        "{ .reg .b32 half; "
        + shift
        + "and.b32 half, half, 0x0f0f0f0f; "
        + "prmt.b32 $0, half, 0x43434343, 0x4140; prmt.b32 $1, half, 0x43434343, 0x4342; }"
    )
    for shift in ("mov.b32 half, $2; ", "shr.u32 half, $2, 4; ")
)


@triton.jit
def _int4_tile(
    packed,
    scale,
    zero,
    n,
    group,
    groups,
    dtype: tl.constexpr,
    GROUP: tl.constexpr,
    LOWEST: tl.constexpr,
    FAST: tl.constexpr,
):
    """Weights [BLOCK_N,GROUP] of one group of the rows n, which lie inside; rounded to `dtype`.

    FAST is for bfloat16 on a GPU: a third fewer instructions, and one rounding instead of two.
    """
    half, of_group = tl.arange(0, GROUP // 2), n * groups + group
    pairs = tl.load(packed + of_group[:, None] * (GROUP // 2) + half[None, :])
    scales, zeros = tl.load(scale + of_group)[:, None], tl.load(zero + of_group)[:, None]
    if FAST:
        first = tl.inline_asm_elementwise(HIGH_HALVES, "=r,=r,r", [pairs], dtype=tl.bfloat16, is_pure=True, pack=4)
        second = tl.inline_asm_elementwise(LOW_HALVES, "=r,=r,r", [pairs], dtype=tl.bfloat16, is_pure=True, pack=4)
        codes = tl.interleave(first - (128 - LOWEST), second - (128 - LOWEST))
        return tl.fma(codes, tl.broadcast_to(scales, codes.shape), tl.broadcast_to(zeros, codes.shape))
    else:  # noqa: RET505 - Triton compiles one of the branches
        codes = tl.interleave(pairs >> 4, pairs & 15).to(tl.float32) + LOWEST
        return (codes * scales.to(tl.float32) + zeros.to(tl.float32)).to(dtype)


@triton.jit
def _int8_tile(codes, scale, n, k, in_features, dtype: tl.constexpr):
    """Weights [BLOCK_N,GROUP] at the inputs k of the rows n, which lie inside; rounded to `dtype`."""
    tile = tl.load(codes + n[:, None] * in_features + k[None, :], mask=(k < in_features)[None, :], other=0)
    return (tile.to(tl.float32) * tl.load(scale + n)[:, None]).to(dtype)


@triton.jit(do_not_specialize=["rows", "groups", "groups_each"])
def _matmul(
    x,
    codes,
    scale,
    zero,
    out,
    rows,
    out_features,
    in_features,
    groups,
    groups_each,
    FOUR_BITS: tl.constexpr,
    FAST: tl.constexpr,
    WIDEN: tl.constexpr,
    GROUP: tl.constexpr,
    LOWEST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One tile [BLOCK_M,BLOCK_N] of the product over some groups of inputs."""
    split = tl.program_id(1)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)
    real = m < rows
    # Rows behind the last one repeat it, and are not stored.
    weight_row = tl.minimum(n, out_features - 1)
    sums = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for group in range(split * groups_each, tl.minimum((split + 1) * groups_each, groups)):
        k = group * GROUP + tl.arange(0, GROUP)
        tile = tl.load(
            x + m[:, None] * in_features + k[None, :], mask=real[:, None] & (k < in_features)[None, :], other=0
        )
        if FOUR_BITS:
            weight = _int4_tile(codes, scale, zero, weight_row, group, groups, tile.dtype, GROUP, LOWEST, FAST)
        else:
            weight = _int8_tile(codes, scale, weight_row, k, in_features, tile.dtype)
        sums += dot(tile, tl.trans(weight), WIDEN)
    place = (split * rows + m)[:, None] * out_features + n[None, :]
    tl.store(out + place, sums.to(out.dtype.element_ty), mask=real[:, None] & (n < out_features)[None, :])


def int4_matmul(x: Tensor, packed: Tensor, scale: Tensor, zero: Tensor, joined: bool = True) -> Tensor:
    """x [M,in] in bfloat16 or float32 times the transpose of a 4-bit weight [out,in], [M,out] in the format of x.

    `packed` uint8 [out,groups·64], `scale` and `zero` [out,groups], `joined`: as in `eager`. Raises InputError for
    others.
    """
    groups = triton.cdiv(x.shape[-1], GROUP_SIZE)
    _check(x, (packed, groups * GROUP_SIZE // 2), (scale, groups), (zero, groups))
    return _product(x, packed, scale, zero, joined, FOUR_BITS=True)


def int8_matmul(x: Tensor, codes: Tensor, scale: Tensor, joined: bool = True) -> Tensor:
    """x [M,in] in bfloat16 or float32 times the transpose of an 8-bit weight [out,in], [M,out] in the format of x.

    `codes` int8 [out,in], `scale` float32 [out], `joined`: as in `eager`. Raises InputError for others.
    """
    _check(x, (codes, x.shape[-1]), (scale[:, None], 1))
    return _product(x, codes, scale, scale, joined, FOUR_BITS=False)


def _product(x: Tensor, codes: Tensor, scale: Tensor, zero: Tensor, joined: bool, **bits: Any) -> Tensor:
    (rows, in_features), out_features = x.shape, codes.shape[0]
    groups, tiles = triton.cdiv(in_features, GROUP_SIZE), triton.cdiv(out_features, BLOCK_OUT)
    groups_each = triton.cdiv(groups, min(groups, max(1, PROGRAMS // tiles)))
    splits = triton.cdiv(groups, groups_each)
    kept = x.dtype if splits == 1 else torch.float32
    partial_sums = torch.empty(splits, rows, out_features, dtype=kept, device=x.device)
    block = max(LEAST_ROWS, min(LARGEST_TILE[x.dtype], triton.next_power_of_2(rows)))
    _matmul[tiles, splits, triton.cdiv(rows, block)](
        x.contiguous(),
        codes,
        scale,
        zero,
        partial_sums,
        rows,
        out_features,
        in_features,
        groups,
        groups_each,
        FAST=x.is_cuda and x.dtype == scale.dtype == zero.dtype == torch.bfloat16,
        WIDEN=not x.is_cuda,
        GROUP=GROUP_SIZE,
        LOWEST=LOWEST_CODE,
        BLOCK_M=block,
        BLOCK_N=BLOCK_OUT,
        num_warps=8 if block == 128 else 4,
        num_stages=3 if block * x.element_size() <= 128 else 2,
        **bits,
    )
    return join(partial_sums, x.dtype) if joined else partial_sums


def _check(x: Tensor, *pieces: tuple[Tensor, int]) -> None:
    if x.dim() != 2 or x.dtype not in LARGEST_TILE:
        raise InputError(
            f"input {list(x.shape)} in {x.dtype}; expected [rows,in] in one of {', '.join(map(str, LARGEST_TILE))}: "
            "use the eager twin for others"
        )
    out_features = pieces[0][0].shape[0]
    for piece, columns in pieces:
        if piece.shape != (out_features, columns) or not piece.is_contiguous() or piece.device != x.device:
            raise InputError(
                f"a piece {list(piece.shape)} on {piece.device} for an input {list(x.shape)} on {x.device}; expected "
                f"it contiguous, [{out_features},{columns}] and on the same device"
            )
