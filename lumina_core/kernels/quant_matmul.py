"""Matmuls with int4 and int8 weights that are dequantised in registers, in Triton kernels.

int4 weights are the values of the scheme's `dequantize`, rounded to the dtype of x; int8 codes are exact in it, and
their scale multiplies the sums. Sums are in float32, in another order than the reference's. How inputs are split over
programs depends on the weight alone. Weights are the left operand, which a GPU takes from registers.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..errors import InputError
from .buffers import Buffers, empty
from .dot import dot, int8_to_bfloat16
from .reference import GROUP_SIZE, LOWEST_CODE
from .tiles import MAX_ROWS, MatmulTile, matmul_tile, split_groups

# Two of a word's codes as bfloat16 weights. Under the bits 0x4300 a code c reads as 128 + c; subtracting 136 leaves
# c − 8 exactly; scale and zero are applied with one rounding.
WEIGHTS = tl.constexpr(
    "{ .reg .b32 codes, mask, high, one, shift; mov.b32 mask, 0x000f000f; mov.b32 high, 0x43004300; "
    "mov.b32 one, 0x3f803f80; mov.b32 shift, 0xc308c308; lop3.b32 codes, $1, mask, high, 0xea; "
    "fma.rn.bf16x2 codes, codes, one, shift; fma.rn.bf16x2 $0, codes, $2, $3; }"
)


@triton.jit
def _int4_weights(
    words,
    scale,
    zero,
    dtype: tl.constexpr,
    LOWEST: tl.constexpr,
    FAST: tl.constexpr,
    ROWS: tl.constexpr,
    SIZE: tl.constexpr,
):
    """Weights [ROWS,SIZE] of the lowest codes of both halves of words [ROWS,SIZE/2], rounded to `dtype`.

    The two codes of a word are neighbours. FAST is for bfloat16 on a GPU: scale and zero are words that hold the value
    in both halves, and there is one rounding instead of two.
    """
    if FAST:
        scales, zeros = tl.broadcast_to(scale, words.shape), tl.broadcast_to(zero, words.shape)
        pairs = tl.inline_asm_elementwise(
            WEIGHTS, "=r,r,r,r", [words, scales, zeros], dtype=tl.int32, is_pure=True, pack=1
        )
        first, second = pairs.to(tl.int16).to(dtype, bitcast=True), (pairs >> 16).to(tl.int16).to(dtype, bitcast=True)
        return tl.reshape(tl.join(first, second), [ROWS, SIZE])
    else:  # noqa: RET505 - Triton compiles one of the branches
        codes = tl.reshape(tl.join(words & 15, (words >> 16) & 15), [ROWS, SIZE]).to(tl.float32) + LOWEST
        return (codes * scale + zero).to(dtype)


@triton.jit
def _halves(words, FAST: tl.constexpr):
    """The bfloat16 values in the low and the high halves of words: each twice in a word if FAST, else in float32."""
    if FAST:
        return (words & 0xFFFF) | (words << 16), ((words >> 16) & 0xFFFF) | (words & -0x10000)
    else:  # noqa: RET505 - Triton compiles one of the branches
        return (words << 16).to(tl.float32, bitcast=True), (words & -0x10000).to(tl.float32, bitcast=True)


@triton.jit
def _inputs(x, m, k, real, in_features, WHOLE: tl.constexpr):
    """Inputs [BLOCK_M,len(k)] of the rows m, 0 outside; if WHOLE, all k are inside."""
    mask = real[:, None] if WHOLE else real[:, None] & (k < in_features)[None, :]
    return tl.load(x + m[:, None] * in_features + k[None, :], mask=mask, other=0)


@triton.jit(do_not_specialize=["rows", "groups", "groups_each"])
def _int4_matmul(
    x,
    packed,
    scale_zero,
    out,
    rows,
    out_features,
    in_features,
    groups,
    groups_each,
    FAST: tl.constexpr,
    WHOLE: tl.constexpr,
    WIDEN: tl.constexpr,
    GROUP: tl.constexpr,
    LOWEST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One tile [BLOCK_M,BLOCK_N] of the result over some groups of inputs, computed as its transpose."""
    split = tl.program_id(1)
    n, m = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N), tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)
    real, word, k = m < rows, tl.arange(0, GROUP // 8), tl.arange(0, GROUP // 4)
    # Rows after the last one repeat it and are not stored.
    weight_row = tl.minimum(n, out_features - 1)
    sums = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for group in range(split * groups_each, tl.minimum((split + 1) * groups_each, groups)):
        of_group = weight_row * groups + group
        words = tl.load(packed + of_group[:, None] * (GROUP // 8) + word[None, :])
        scale, zero = _halves(tl.load(scale_zero + of_group)[:, None], FAST)
        for quarter in tl.static_range(4):
            inputs = _inputs(x, m, group * GROUP + quarter * (GROUP // 4) + k, real, in_features, WHOLE)
            weights = _int4_weights(
                words >> (4 * quarter), scale, zero, inputs.dtype, LOWEST, FAST, BLOCK_N, GROUP // 4
            )
            sums += dot(weights, tl.trans(inputs), WIDEN)
    _store(sums, out, m, n, split, rows, out_features, real)


@triton.jit(do_not_specialize=["rows", "groups", "groups_each"])
def _int8_matmul(
    x,
    codes,
    scale,
    out,
    rows,
    out_features,
    in_features,
    groups,
    groups_each,
    WHOLE: tl.constexpr,
    WIDEN: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """As `_int4_matmul`; the scale of a row multiplies its sums at the end."""
    split = tl.program_id(1)
    n, m = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N), tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)
    real, weight_row = m < rows, tl.minimum(n, out_features - 1)
    sums = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for group in range(split * groups_each, tl.minimum((split + 1) * groups_each, groups)):
        k = group * GROUP + tl.arange(0, GROUP)
        inputs = _inputs(x, m, k, real, in_features, WHOLE)
        inside = None if WHOLE else (k < in_features)[None, :]
        weights = tl.load(codes + weight_row[:, None] * in_features + k[None, :], mask=inside)
        if WIDEN:
            weights = weights.to(tl.float32)
        elif inputs.dtype == tl.bfloat16:
            weights = int8_to_bfloat16(weights)
        sums += dot(weights.to(inputs.dtype), tl.trans(inputs), WIDEN)
    _store(sums * tl.load(scale + weight_row)[:, None], out, m, n, split, rows, out_features, real)


@triton.jit
def _store(sums, out, m, n, split, rows, out_features, real):
    """Writes sums [BLOCK_N,BLOCK_M] where they are real."""
    place = (split * rows + m)[None, :] * out_features + n[:, None]
    tl.store(out + place, sums.to(out.dtype.element_ty), mask=real[None, :] & (n < out_features)[:, None])


def int4_matmul(
    x: Tensor,
    packed: Tensor,
    scale_zero: Tensor,
    sum_splits: bool = True,
    tile: MatmulTile | None = None,
    buffers: Buffers | None = None,
) -> Tensor:
    """x [M,in] times the transpose of an int4 weight [out,in], [M,out] in the dtype of x. See the reference.

    `scale_zero` is in bfloat16; `tile` replaces that of `matmul_tile`. Raises InputError for other shapes and for a
    dtype of x that is neither bfloat16 nor float32.
    """
    groups = triton.cdiv(x.shape[-1], GROUP_SIZE)
    _check(x, (packed, (groups * GROUP_SIZE // 2,)), (scale_zero, (groups, 2)))
    words = packed.view(torch.int32), scale_zero.view(torch.int32)
    fast = x.is_cuda and x.dtype == torch.bfloat16
    return _matmul(_int4_matmul, x, words, sum_splits, tile, buffers, LOWEST=LOWEST_CODE, FAST=fast)


def int8_matmul(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    sum_splits: bool = True,
    tile: MatmulTile | None = None,
    buffers: Buffers | None = None,
) -> Tensor:
    """As `int4_matmul`, with an int8 weight."""
    _check(x, (codes, (x.shape[-1],)), (scale, ()))
    return _matmul(_int8_matmul, x, (codes, scale), sum_splits, tile, buffers)


def _matmul(
    kernel: Any,
    x: Tensor,
    weight: tuple[Tensor, ...],
    sum_splits: bool,
    tile: MatmulTile | None,
    buffers: Buffers | None,
    **options: Any,
) -> Tensor:
    (rows, in_features), out_features = x.shape, weight[0].shape[0]
    tile = matmul_tile(rows, in_features, out_features, x.dtype) if tile is None else tile
    splits, groups_each = split_groups(in_features, tile.splits)
    dtype = x.dtype if splits == 1 else torch.float32
    partial_sums = empty(buffers, "matmul", (splits, rows, out_features), dtype, x.device)
    if not x.is_contiguous():
        x = empty(buffers, "matmul.x", x.shape, x.dtype, x.device).copy_(x)
    inputs = {"WHOLE": in_features % GROUP_SIZE == 0, "WIDEN": not x.is_cuda, "GROUP": GROUP_SIZE}
    block = {"BLOCK_M": tile.rows, "BLOCK_N": tile.outputs, "num_warps": tile.warps, "num_stages": tile.stages}
    grid = triton.cdiv(out_features, tile.outputs), splits, triton.cdiv(rows, tile.rows)
    sizes = rows, out_features, in_features, triton.cdiv(in_features, GROUP_SIZE), groups_each
    kernel[grid](x, *weight, partial_sums, *sizes, **inputs, **block, **options)
    if splits == 1 or not sum_splits:
        return partial_sums[0] if sum_splits else partial_sums
    sums = empty(buffers, "matmul.sum", partial_sums.shape[1:], dtype, x.device)
    torch.sum(partial_sums, 0, out=sums)
    return empty(buffers, "matmul.out", sums.shape, x.dtype, x.device).copy_(sums)


def _check(x: Tensor, *weight: tuple[Tensor, tuple[int, ...]]) -> None:
    if x.dim() != 2 or x.dtype not in MAX_ROWS:
        raise InputError(
            f"input {list(x.shape)} in {x.dtype}; expected [rows,in] in one of {', '.join(map(str, MAX_ROWS))}: "
            "use the reference for others"
        )
    out_features = weight[0][0].shape[0]
    for packed, columns in weight:
        if packed.shape != (out_features, *columns) or not packed.is_contiguous() or packed.device != x.device:
            raise InputError(
                f"a packed tensor {list(packed.shape)} on {packed.device} for an input {list(x.shape)} on {x.device}; "
                f"expected {[out_features, *columns]}, contiguous and on the same device"
            )
