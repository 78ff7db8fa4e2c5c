"""The product of two tiles in a Triton kernel."""

import triton
import triton.language as tl


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
