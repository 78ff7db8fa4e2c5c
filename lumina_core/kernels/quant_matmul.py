"""Matmuls with int4 and int8 weights that are dequantised in registers, in Triton kernels.

int4 weights are the values of the scheme's `dequantize`, rounded to the dtype of x; int8 codes are exact in it, and
their scale multiplies the sums. Sums are in float32, in another order than the reference's: that order, and how inputs
are split over programs, depend on the weight alone, so that a row's result does not depend on how many rows there are.
Weights are the left operand, which a GPU takes from registers, and are in the neutral order or in contiguous tiles
(see `weight_tiles`).
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..errors import InputError
from .buffers import Buffers, empty
from .dot import dot
from .reference import GROUP_SIZE, LOWEST_CODE
from .tiles import MAX_ROWS, MatmulTile, matmul_tile, split_groups
from .weight_tiles import TILE_ROWS

# Two of a word's codes as bfloat16 weights. Under the bits 0x4300 a code c reads as 128 + c; subtracting 136 leaves
# c − 8 exactly; scale and zero, each in both halves of a word, are applied with one rounding.
INT4_PAIR = tl.constexpr(
    "{ .reg .b32 codes, mask, high, one, shift; mov.b32 mask, 0x000f000f; mov.b32 high, 0x43004300; "
    "mov.b32 one, 0x3f803f80; mov.b32 shift, 0xc308c308; lop3.b32 codes, $1, mask, high, 0xea; "
    "fma.rn.bf16x2 codes, codes, one, shift; fma.rn.bf16x2 $0, codes, $2, $3; }"
)
# The int8 codes in the low bytes of both halves of a word as bfloat16 weights. Under the bits 0x4300 the low seven bits
# of a code read as 128 more than their value, and its sign bit as 128 or 256: the difference is the code.
INT8_PAIR = tl.constexpr(
    "{ .reg .b32 low, sign, high, less; mov.b32 high, 0x43004300; mov.b32 less, 0xbf80bf80; "
    "lop3.b32 low, $1, 0x007f007f, high, 0xea; lop3.b32 sign, $1, 0x00800080, high, 0xea; "
    "fma.rn.bf16x2 $0, sign, less, low; }"
)


@triton.jit
def _bfloat16_pairs(pairs, ROWS: tl.constexpr, SIZE: tl.constexpr):
    """The bfloat16 values [ROWS,SIZE] in both halves of words that hold two neighbours each, the low half first."""
    first, second = pairs.to(tl.int16), (pairs >> 16).to(tl.int16)
    values = tl.join(first.to(tl.bfloat16, bitcast=True), second.to(tl.bfloat16, bitcast=True))
    return tl.reshape(values, [ROWS, SIZE])


@triton.jit
def _int4_weights(words, scale_zero, dtype: tl.constexpr, FAST: tl.constexpr, LOWEST: tl.constexpr):
    """Weights [N,64] of the lowest two codes of both halves of words [N,16], rounded to `dtype`.

    `scale_zero` [N] are words of a scale in the low half and a zero in the high half. FAST is for bfloat16 on a GPU:
    there is one rounding instead of two.
    """
    rows: tl.constexpr = words.shape[0]
    quarters = words[:, None, :] >> (4 * tl.arange(0, 2))[None, :, None]
    if FAST:
        scale = (scale_zero & 0xFFFF) | (scale_zero << 16)
        zero = ((scale_zero >> 16) & 0xFFFF) | (scale_zero & -0x10000)
        scales = tl.broadcast_to(scale[:, None, None], quarters.shape)
        zeros = tl.broadcast_to(zero[:, None, None], quarters.shape)
        pairs = tl.inline_asm_elementwise(
            INT4_PAIR, "=r,r,r,r", [quarters, scales, zeros], dtype=tl.int32, is_pure=True, pack=1
        )
        return _bfloat16_pairs(pairs, rows, 64)
    else:  # noqa: RET505 - Triton compiles one of the branches
        codes = tl.reshape(tl.join(quarters & 15, (quarters >> 16) & 15), [rows, 64]).to(tl.float32) + LOWEST
        scale = (scale_zero << 16).to(tl.float32, bitcast=True)
        zero = (scale_zero & -0x10000).to(tl.float32, bitcast=True)
        return (codes * scale[:, None] + zero[:, None]).to(dtype)


@triton.jit
def _int8_weights(words, dtype: tl.constexpr, FAST: tl.constexpr):
    """Weights [N,4·M] in `dtype` of a tile's words [N,M] of four codes each. FAST is for bfloat16 on a GPU."""
    rows: tl.constexpr = words.shape[0]
    size: tl.constexpr = 4 * words.shape[1]
    parts, half = tl.reshape(words, [rows, size // 64, 16]), tl.arange(0, 2)
    if FAST:
        halves = parts[:, :, None, :] >> (8 * half)[None, None, :, None]
        pairs = tl.inline_asm_elementwise(INT8_PAIR, "=r,r", [halves], dtype=tl.int32, is_pure=True, pack=1)
        return _bfloat16_pairs(tl.reshape(pairs, [rows, size // 2]), rows, size)
    else:  # noqa: RET505 - Triton compiles one of the branches
        byte = half[:, None] + 2 * tl.arange(0, 2)[None, :]
        left = parts[:, :, None, :, None] << (24 - 8 * byte)[None, None, :, None, :]
        return tl.reshape(left >> 24, [rows, size]).to(tl.float32).to(dtype)


@triton.jit
def _inputs(x, m, k, real, in_features, WHOLE: tl.constexpr):
    """Inputs [BLOCK_M,len(k)] of the rows m, 0 outside; if WHOLE, all k are inside."""
    mask = real[:, None] if WHOLE else real[:, None] & (k < in_features)[None, :]
    return tl.load(x + m[:, None] * in_features + k[None, :], mask=mask, other=0)


@triton.jit
def _place(row, group, groups, TILE: tl.constexpr):
    """The index of a group of a weight's rows among all groups, in the order that `repack` gives for tiles."""
    return (row // TILE * groups + group) * TILE + row % TILE if TILE > 1 else row * groups + group


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
    TILE: tl.constexpr,
    LOWEST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One block [BLOCK_M,BLOCK_N] of the result over some groups of inputs, computed as its transpose."""
    split = tl.program_id(1)
    n, m = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N), tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)
    real, word, k = m < rows, tl.arange(0, GROUP // 8), tl.arange(0, GROUP // 2)
    # Rows after the last one repeat it and are not stored.
    weight_row = tl.minimum(n, out_features - 1)
    sums = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    # Every split has a group. A loop that might have none keeps the compiler from starting a product before the last
    # one has ended.
    for step in range(tl.maximum(tl.minimum(groups_each, groups - split * groups_each), 1)):
        group = split * groups_each + step
        place = _place(weight_row, group, groups, TILE)
        words = tl.load(packed + place[:, None] * (GROUP // 8) + word[None, :])
        of_group = tl.load(scale_zero + place)
        for half in tl.static_range(2):
            inputs = _inputs(x, m, group * GROUP + half * (GROUP // 2) + k, real, in_features, WHOLE)
            weights = _int4_weights(words >> (8 * half), of_group, inputs.dtype, FAST, LOWEST)
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
    FAST: tl.constexpr,
    WHOLE: tl.constexpr,
    WIDEN: tl.constexpr,
    GROUP: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """As `_int4_matmul`; the scale of a row multiplies its sums at the end. Codes are words in tiles, else bytes."""
    split = tl.program_id(1)
    n, m = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N), tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)
    real, weight_row = m < rows, tl.minimum(n, out_features - 1)
    sums = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    part: tl.constexpr = GROUP // 2
    for step in range(tl.maximum(tl.minimum(groups_each, groups - split * groups_each), 1)):
        group = split * groups_each + step
        place = _place(weight_row, group, groups, TILE)[:, None] * (GROUP // 4)
        for half in tl.static_range(2):
            k = group * GROUP + half * part + tl.arange(0, part)
            inputs = _inputs(x, m, k, real, in_features, WHOLE)
            if TILE > 1:
                word = half * (part // 4) + tl.arange(0, part // 4)
                weights = _int8_weights(tl.load(codes + place + word[None, :]), inputs.dtype, FAST)
            else:
                inside = (k < in_features)[None, :]
                bytes = tl.load(codes + weight_row[:, None] * in_features + k[None, :], mask=inside, other=0)
                weights = bytes.to(tl.float32).to(inputs.dtype)
            sums += dot(weights, tl.trans(inputs), WIDEN)
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

    `scale_zero` is in bfloat16; `tile` replaces that of `matmul_tile`; results are taken from the buffers. Raises
    InputError for other shapes and for a dtype of x that is neither bfloat16 nor float32.
    """
    groups = triton.cdiv(x.shape[-1], GROUP_SIZE)
    _check(x, groups, (packed, (groups * GROUP_SIZE // 2,)), (scale_zero, (groups, 2)))
    words = packed.view(torch.int32), scale_zero.view(torch.int32)
    return _matmul(_int4_matmul, x, words, sum_splits, tile or _tile(x, packed, 4), buffers, LOWEST=LOWEST_CODE)


def int8_matmul(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    sum_splits: bool = True,
    tile: MatmulTile | None = None,
    buffers: Buffers | None = None,
) -> Tensor:
    """As `int4_matmul`, with an int8 weight."""
    in_features = x.shape[-1]
    _check(x, triton.cdiv(in_features, GROUP_SIZE), (codes, (in_features,)), (scale, ()))
    words = codes.view(torch.int32) if codes.dim() == 4 else codes
    return _matmul(_int8_matmul, x, (words, scale), sum_splits, tile or _tile(x, codes, 8), buffers)


def _tile(x: Tensor, packed: Tensor, bits: int) -> MatmulTile:
    return matmul_tile(x.shape[0], x.shape[1], _out_features(packed), x.dtype, bits)


def _out_features(packed: Tensor) -> int:
    return packed.shape[0] * TILE_ROWS if packed.dim() == 4 else packed.shape[0]


def _matmul(
    kernel: Any,
    x: Tensor,
    weight: tuple[Tensor, ...],
    sum_splits: bool,
    tile: MatmulTile,
    buffers: Buffers | None,
    **options: Any,
) -> Tensor:
    """The result [M,out], or partial sums [splits,M,out] in float32 (of one split: in the dtype of x)."""
    (rows, in_features), out_features = x.shape, _out_features(weight[0])
    splits, groups_each = split_groups(in_features, tile.splits)
    dtype = x.dtype if splits == 1 else torch.float32
    partial_sums = empty(buffers, "matmul", (splits, rows, out_features), dtype, x.device)
    if not x.is_contiguous():
        x = empty(buffers, "matmul.x", x.shape, x.dtype, x.device).copy_(x)
    order = {"TILE": TILE_ROWS if weight[0].dim() == 4 else 1, "GROUP": GROUP_SIZE}
    inputs = {"WHOLE": in_features % GROUP_SIZE == 0, "WIDEN": not x.is_cuda}
    fast = {"FAST": x.is_cuda and x.dtype == torch.bfloat16}
    block = {"BLOCK_M": tile.rows, "BLOCK_N": tile.outputs, "num_warps": tile.warps, "num_stages": tile.stages}
    grid = triton.cdiv(out_features, tile.outputs), splits, triton.cdiv(rows, tile.rows)
    sizes = rows, out_features, in_features, triton.cdiv(in_features, GROUP_SIZE), groups_each
    kernel[grid](x, *weight, partial_sums, *sizes, **order, **inputs, **fast, **block, **options)
    if splits == 1 or not sum_splits:
        return partial_sums[0] if sum_splits else partial_sums
    sums = empty(buffers, "matmul.sum", partial_sums.shape[1:], dtype, x.device)
    torch.sum(partial_sums, 0, out=sums)
    return empty(buffers, "matmul.out", sums.shape, x.dtype, x.device).copy_(sums)


def _check(x: Tensor, groups: int, *weight: tuple[Tensor, tuple[int, ...]]) -> None:
    """`weight` are packed tensors and what follows their rows in the neutral order."""
    if x.dim() != 2 or x.dtype not in MAX_ROWS:
        raise InputError(
            f"input {list(x.shape)} in {x.dtype}; expected [rows,in] in one of {', '.join(map(str, MAX_ROWS))}: "
            "use the reference for others"
        )
    tiled, out_features = weight[0][0].dim() == 4, _out_features(weight[0][0])
    for packed, columns in weight:
        expected = out_features, *columns
        if tiled and columns:
            expected = out_features // TILE_ROWS, groups, TILE_ROWS, math.prod(columns) // groups
        if packed.shape != expected or not packed.is_contiguous() or packed.device != x.device:
            raise InputError(
                f"a packed tensor {list(packed.shape)} on {packed.device} for an input {list(x.shape)} on {x.device}; "
                f"expected {list(expected)}, contiguous and on the same device"
            )
