"""The product of two tiles in a Triton kernel, and 8-bit numbers for it."""

import triton
import triton.language as tl


@triton.jit
def bytes_as_bfloat16(numbers):
    """int8 as bfloat16, exactly, on a GPU.

    Put under the byte 0x43, the low seven bits of a byte are 128 more than they stand for, and its sign bit is 128 or
    256: their difference is the number. Not said to be pure: the compiler would have each thread convert the bytes that
    a product takes from it, one by one, instead of those that lie together in memory.
    """
    # Written out here: through a global of several kernels' callee, Triton before 3.8 finds another key in its cache
    # by which of them it saw first, and builds them again in the next process.
    return tl.inline_asm_elementwise(
        "{ .reg .b32 low, sign, high, less; and.b32 low, $2, 0x7f7f7f7f; and.b32 sign, $2, 0x80808080; "
        "mov.b32 less, 0xbf80bf80; "
        "prmt.b32 $0, low, 0x43434343, 0x4140; prmt.b32 high, sign, 0x43434343, 0x4140; "
        "fma.rn.bf16x2 $0, high, less, $0; "
        "prmt.b32 $1, low, 0x43434343, 0x4342; prmt.b32 high, sign, 0x43434343, 0x4342; "
        "fma.rn.bf16x2 $1, high, less, $1; }",
        "=&r,=&r,r",
        [numbers],
        dtype=tl.bfloat16,
        is_pure=False,
        pack=4,
    )


@triton.jit
def dot(left, right, WIDEN: tl.constexpr):
    """left [M,K] times right [K,N] of one format, summed in float32; float32 is not rounded to TF32.

    WIDEN multiplies in float32, for Triton's interpreter on a CPU: it takes bfloat16 for the integers that it is stored
    as.
    """
    if WIDEN:
        return tl.dot(left.to(tl.float32), right.to(tl.float32), input_precision="ieee")
    else:  # noqa: RET505 - Triton compiles one of the branches
        return tl.dot(left, right, input_precision="ieee")
