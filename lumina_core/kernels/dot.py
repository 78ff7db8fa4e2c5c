"""The matmul of two tiles in a Triton kernel, and int8 operands for it."""

import triton
import triton.language as tl


@triton.jit
def int8_to_bfloat16(codes):
    """int8 as bfloat16, exactly, on a GPU.

    Under a high byte of 0x43, the low seven bits of a code read as 128 more than their value, and the sign bit as 128
    or 256: the difference of the two is the code. `is_pure` is false because with it each thread would convert the
    bytes that the matmul takes from it one by one, instead of the bytes that are adjacent in memory.
    """
    # The text is written out here: as a global of a function that several kernels call, Triton before 3.8 computes a
    # cache key that depends on which kernel it saw first, and builds them again in the next process.
    return tl.inline_asm_elementwise(
        "{ .reg .b32 low, sign, high, less; and.b32 low, $2, 0x7f7f7f7f; and.b32 sign, $2, 0x80808080; "
        "mov.b32 less, 0xbf80bf80; "
        "prmt.b32 $0, low, 0x43434343, 0x4140; prmt.b32 high, sign, 0x43434343, 0x4140; "
        "fma.rn.bf16x2 $0, high, less, $0; "
        "prmt.b32 $1, low, 0x43434343, 0x4342; prmt.b32 high, sign, 0x43434343, 0x4342; "
        "fma.rn.bf16x2 $1, high, less, $1; }",
        "=&r,=&r,r",
        [codes],
        dtype=tl.bfloat16,
        is_pure=False,
        pack=4,
    )


@triton.jit
def dot(left, right, WIDEN: tl.constexpr):
    """left [M,K] times right [K,N] of one dtype, summed in float32; float32 is not rounded to TF32.

    WIDEN multiplies in float32: Triton's interpreter on a CPU takes bfloat16 for the integers that hold it.
    """
    if WIDEN:
        return tl.dot(left.to(tl.float32), right.to(tl.float32), input_precision="ieee")
    else:  # noqa: RET505 - Triton compiles one of the branches
        return tl.dot(left, right, input_precision="ieee")
